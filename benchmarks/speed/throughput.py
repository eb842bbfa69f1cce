"""Compare the pipeline's speed with its ceiling and its peer, in one run: ``kailin-ray bench`` on the demo's documents.

    python benchmarks/speed/throughput.py [--demo demo] [--out build/throughput] [limit=96 bench.runs=3 ...]

*pipeline*: the real pipeline on real abstracts, including the encoding of questions and the retrieval. *bare*, the
ceiling: the same prompts and as many tokens through the same engine, without the pipeline. *chain*, the peer: the same
prompts through ray.data.llm processors that run one after another, with an engine for each agent's calls. The last line
is the result as JSON.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

DEFAULTS = ("retrieval=brief", "limit=96", "bench.runs=3", "bench.chain=true")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="a folder with documents and index")
    parser.add_argument("--out", type=Path, default=Path("build/throughput"), help="is made anew")
    parser.add_argument("keys", nargs="*")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    inputs = [f"documents={options.demo}/documents", f"index={options.demo}/index", "mesh=assets/mesh.tsv"]
    command = [sys.executable, "-m", "kailin_ray", "bench", *inputs, *DEFAULTS, *options.keys, f"out={options.out}"]
    code = subprocess.run(command, stdout=sys.stderr).returncode
    if code == 0:
        report = json.loads((options.out / "bench.json").read_text())
        print(json.dumps({"benchmark": "throughput", **report}, ensure_ascii=False))
    sys.exit(code)


if __name__ == "__main__":
    main()
