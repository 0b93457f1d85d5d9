#!/usr/bin/env bash
# The plugin in a real nerfstudio 1.1.5 on the CPU, in an environment of its own: its methods are
# listed, trained and evaluated by nerfstudio, and what it saved is compressed.
#
#   PYTHON=.venv/bin/python bench/nerfstudio_plugin.sh CAPTURE [VENV]
#
# PYTHON has the build group and fieldpress; CAPTURE is a folder with transforms.json. Fetches about
# 3 GB at the first run: torch's CPU build by constraints.txt, nerfstudio's imports without their
# own dependencies (its pins of them do not hold together any more).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-.venv/bin/python} CAPTURE=$1 VENV=${2:-/tmp/fieldpress-nerfstudio}
export PIP_DISABLE_PIP_VERSION_CHECK=1

if [ ! -e "$VENV/installed" ]; then
  python3.11 -m venv "$VENV"
  "$VENV/bin/pip" install -q -c constraints.txt torch
  "$VENV/bin/pip" install -q --no-deps nerfstudio==1.1.5 nerfacc==0.5.2 gsplat==1.4.0 \
    torchvision==0.28.0 -r bench/nerfstudio_imports.txt
  # torchvision's operators are in a library that wants CUDA; its imports only want their names.
  site=$("$VENV/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
  cat > "$site/torchvision_operators.py" <<'PY'
import torch

library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
PY
  echo "import torchvision_operators" > "$site/torchvision_operators.pth"
  touch "$VENV/installed"
fi
wheel=$(mktemp -d)
trap 'rm -rf "$wheel"' EXIT
"$PYTHON" -m pip wheel -q --no-deps --no-build-isolation -w "$wheel" .
"$VENV/bin/pip" install -q --no-deps --force-reinstall "$wheel"/*.whl
"$PYTHON" bench/nerfstudio_plugin.py "$CAPTURE" "$VENV"
