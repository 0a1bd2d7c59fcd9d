"""What importing the web application costs, and what it must not drag in; ``python -m bench.cold``."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.report import Report, Result
from bench.servers import ROOT, SERVER_CORE, pin

MODULE = "loquent.web.app"
HEAVY = ("torch", "transformers", "celery", "xllamacpp", "numpy", "aiobotocore", "botocore", "boto3", "google", "azure")
ASK = f"import sys, json, {MODULE}; print(json.dumps(sorted(sys.modules)))"


def imports(times: int = 5) -> Result:
    """Import it that many times, each in a fresh interpreter, and add up what each module took by itself."""
    totals: list[float] = []
    own: dict[str, float] = {}
    for _ in range(times):
        ran = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", ASK],
            cwd=ROOT,
            capture_output=True,
            text=True,
            preexec_fn=lambda: pin(SERVER_CORE),
            check=False,
        )
        if ran.returncode:
            raise RuntimeError(f"{MODULE} cannot be imported: {ran.stderr.strip().splitlines()[-1]}")
        total, own = _read(ran.stderr)
        totals.append(round(total, 1))
    modules = json.loads(ran.stdout)
    top = {name.partition(".")[0] for name in modules}
    dearest = sorted(own.items(), key=lambda item: -item[1])[:8]
    return {
        "part": "import",
        "row": MODULE,
        "ms": totals,
        "modules": len(modules),
        "heavy": [name for name in HEAVY if name in top],
        "dearest": dearest,
    }


def _read(told: str) -> tuple[float, dict[str, float]]:
    """Milliseconds in all, and by top-level package; modules that any interpreter imports at its start left out."""
    own: dict[str, float] = {}
    total, is_ours = 0.0, False
    for line in told.splitlines():
        if not line.startswith("import time:") or "self [us]" in line:
            continue
        micros, _, name = (part.strip() for part in line[12:].split("|"))
        if is_ours:
            total += int(micros) / 1000
            top = name.partition(".")[0]
            own[top] = round(own.get(top, 0.0) + int(micros) / 1000, 1)
        is_ours = is_ours or name == "site"  # the last thing of the interpreter's own start
    return total, own


if __name__ == "__main__":
    print("\n".join(Report([imports()]).lines()))
