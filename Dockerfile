# The image of head and workers, for machines with NVIDIA GPUs or without:
#   docker build --target gpu -t REGISTRY/kailin-ray:0.1.0-gpu .
#   docker build --target cpu -t REGISTRY/kailin-ray:0.1.0-cpu .
#
# Python's own slim image also for GPUs: vLLM's and PyTorch's wheels bring CUDA's libraries and nvcc (requirements/gpu.lock), and
# the driver is the machine's. Everything goes to /usr/local, so that a login shell finds python and ray, too.
#
# A tag can be given to another image later. A build that is to be the same again names the digest:
#   --build-arg BASE=python:3.11-slim-bookworm@sha256:...   (docker buildx imagetools inspect python:3.11-slim-bookworm)
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1
# g++: Triton and PyTorch compile at run time, also on CPUs. libnuma1, libgomp1: vLLM on CPUs, numba. wget: the probes of
# KubeRay before 1.6. rsync: `ray up`. .cache: what is compiled; a volume that is mounted there gets its owner.
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ libgomp1 libnuma1 rsync wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home kailin \
 && install -d -o kailin -g kailin /home/kailin/.cache

# The locks have the SHA-256 of all that is installed; this code comes last, as it changes most.
FROM base AS cpu-packages
WORKDIR /source
COPY requirements/install.sh requirements/cpu.lock requirements/s3.lock requirements/train.lock requirements/
RUN requirements/install.sh python cpu s3 train
COPY LICENSE README.md pyproject.toml ./
COPY conf conf
COPY kailin_ray kailin_ray
RUN pip install --no-deps --no-build-isolation .

FROM base AS gpu-packages
WORKDIR /source
COPY requirements/install.sh requirements/gpu.lock requirements/s3.lock requirements/train.lock requirements/
RUN requirements/install.sh python gpu s3 train
COPY LICENSE README.md pyproject.toml ./
COPY conf conf
COPY kailin_ray kailin_ray
RUN pip install --no-deps --no-build-isolation .

FROM base AS cpu
COPY --from=cpu-packages /usr/local /usr/local
WORKDIR /home/kailin
USER 1000:1000

FROM base AS gpu
COPY --from=gpu-packages /usr/local /usr/local
# Where nvidia-cuda-nvcc lies, with which FlashInfer compiles its kernels.
ENV CUDA_HOME=/usr/local/lib/python3.11/site-packages/nvidia/cu13
WORKDIR /home/kailin
USER 1000:1000
