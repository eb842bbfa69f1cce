"""Submit a command as a job of a Ray cluster: check it here, run it there, and return its output and exit code.

The driver runs on the cluster under Ray's job supervisor, so a lost terminal or connection does no harm. Only this
package and its configuration (about 1 MB) are uploaded, or nothing if ``job.ship`` is false. Data are never uploaded:
paths are those of the cluster.
"""

import asyncio
import logging
import os
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from kailin_ray.config import Job, SubmitConfig, conf_dir, without_secrets
from kailin_ray.errors import ConfigError
from kailin_ray.schema import Json
from kailin_ray.versions import PACKAGE

logger = logging.getLogger(__name__)

STOPPED = 75
BETWEEN = 5.0
"""Seconds before a lost connection is retried."""


@dataclass(frozen=True)
class SubmittedJob:
    """A command that runs as a job of a Ray cluster."""

    id: str
    command: str
    client: JobSubmissionClient

    @property
    def address(self) -> str:
        """Address of the cluster's dashboard."""
        return str(self.client.get_address())

    def follow(self, out: TextIO) -> int:
        """Write the job's output to ``out`` until it ends, reconnecting if needed; return its command's exit code."""
        return asyncio.run(follow(self.client, self.id, out))


def submit(config: SubmitConfig) -> SubmittedJob:
    """Submit a command as a job. Raises ``ConfigError`` if it may not be submitted or the cluster refuses it."""
    _check_secrets(config)
    client = connect(config.job)
    if config.job.id in {job.submission_id for job in client.list_jobs()} - {None}:
        raise ConfigError(f"job.id: {config.job.id} is another job's on this cluster; choose one, or leave it to Ray")
    with tempfile.TemporaryDirectory() as scratch:
        # The driver drains after SIGTERM, but by default Ray waits only three seconds. Its output goes to a file.
        patience = {"RAY_JOB_STOP_WAIT_TIME_S": str(config.job.stop_seconds), "PYTHONUNBUFFERED": "1"}
        environment: Json = {"env_vars": patience | config.job.env}
        if config.job.ship:
            environment["working_dir"] = str(pack_code(Path(scratch) / "kailin_ray"))
        try:
            identity = client.submit_job(
                entrypoint=shlex.join([config.job.python, "-m", "kailin_ray", config.command, *config.keys]),
                submission_id=config.job.id,
                runtime_env=environment,
                entrypoint_num_cpus=config.job.num_cpus,
                entrypoint_memory=int(config.job.memory_gib * 2**30) or None,
                entrypoint_resources=config.job.resources or None,
            )
        except RuntimeError as error:
            raise ConfigError(f"job: the cluster refuses it: {_one_line(error)}") from error
    return SubmittedJob(identity, config.command, client)


def format_submitted(job: SubmittedJob) -> str:
    """Describe what a person can do with a job."""
    where = f"--address {job.address}"
    return "\n".join(
        (
            f"job {job.id}, command {job.command}",
            f"  watch it   ray job logs {where} --follow {job.id}",
            f"  stop it    ray job stop {where} {job.id}      it stops cleanly, and the same command resumes it",
        )
    )


def _check_secrets(config: SubmitConfig) -> None:
    """Raise ``ConfigError`` for a secret that everybody who sees the cluster's jobs could read."""
    for text in config.keys:
        key, _, value = text.partition("=")
        if without_secrets(value, key) != value:
            raise ConfigError(f"{key}: a secret in a job's command is seen by all who see the cluster's jobs")
    if without_secrets(config.job.env) != config.job.env:
        raise ConfigError("job.env: a secret there is seen by all who see the cluster's jobs; set it on the machines")


def connect(job: Job) -> JobSubmissionClient:
    """Return a client of the cluster's dashboard. Raises ``ConfigError`` if none answers or the token is wrong."""
    address = job.address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265"
    url = without_secrets(address)
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"job.address: {url}: expected the dashboard's address, as http://head:8265")
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ConfigError(
            f"job.address: {url} asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH (else ~/.ray/auth_token is read) to what its head was started with"
        ) from error
    except (ConnectionError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"job.address: no Ray dashboard answers at {url}; start a cluster with `ray start --head`, or forward "
            f"its port ({_one_line(error)})"
        ) from error


def pack_code(folder: Path) -> Path:
    """Copy only this package and its configuration to ``folder``, laid out as in a checkout."""
    ignored = shutil.ignore_patterns("__pycache__", "conf")
    shutil.copytree(PACKAGE, folder / "kailin_ray", ignore=ignored)
    shutil.copytree(conf_dir(), folder / "conf", ignore=ignored)
    return folder


async def follow(client: JobSubmissionClient, identity: str, out: TextIO) -> int:
    """See ``SubmittedJob.follow``."""
    num_written = 0
    while True:
        num_read = 0
        try:
            async for text in client.tail_job_logs(identity):  # always from the first line on
                out.write(text[max(0, num_written - num_read) :])
                out.flush()
                num_read += len(text)
                num_written = max(num_written, num_read)
            if (code := exit_code(client.get_job_info(identity))) is not None:
                return code
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            logger.warning("the connection was lost; the job continues (%s)", _one_line(error))
        await asyncio.sleep(BETWEEN)


def exit_code(info: JobDetails) -> int | None:
    """Return the exit code of a job's command: None while it runs, 75 if it was stopped, 1 if it never started."""
    if not info.status.is_terminal():
        return None
    if info.status == JobStatus.STOPPED:
        return STOPPED
    if info.driver_exit_code is None:
        logger.error("%s", info.message)
        return 1
    return int(info.driver_exit_code)


def _one_line(error: Exception) -> str:
    return str(without_secrets(" ".join(str(error).split())[:300])) or type(error).__name__
