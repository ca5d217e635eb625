#!/usr/bin/env bash
# Make .venv from the lock that fits this machine: vLLM's CUDA build where there is an NVIDIA GPU, its CPU build elsewhere.
# Does nothing when .venv is up to date. PYTHON chooses the interpreter, ELMAS_LOCK=cpu|gpu the lock.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
if [ -n "${ELMAS_LOCK:-}" ]; then lock=$ELMAS_LOCK
elif nvidia-smi -L >/dev/null 2>&1; then lock=gpu
else lock=cpu; fi
stamp=.venv/.installed
wanted=$(cat "requirements/$lock.lock" pyproject.toml scripts/setup.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then exit 0; fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "elmas needs Python 3.11 or newer; $python is older: set PYTHON to another interpreter" >&2
  exit 1
}
echo "installing into .venv from requirements/$lock.lock (a few minutes the first time)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=".venv/bin/python -m pip --disable-pip-version-check --quiet"
# --no-deps: the lock is complete, and leaves out on purpose what breaks a CPU build (see requirements/overrides-cpu.txt).
$pip install --no-deps -r "requirements/$lock.lock" || {
  [ "$lock" = cpu ] && echo "If PyTorch's CPU build was not found: point PIP_EXTRA_INDEX_URL at PyTorch's index of CPU wheels and try again." >&2
  exit 1
}
$pip install --no-deps --no-build-isolation --editable .
echo "$wanted" > "$stamp"
