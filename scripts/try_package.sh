#!/usr/bin/env bash
# Install a wheel or a source package in a new environment, outside the checkout, and try it: scripts/try_package.sh FILE
set -euo pipefail
package=$(realpath "$1")
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --disable-pip-version-check "$package"
cd "$room"
export CAST_BENCH_CACHE="$room/cache" PATH="$room/venv/bin:$PATH"
bench --version
bench run --methods magnitude --quant none --measures perplexity,size --set perplexity.windows=4 --results results/local
bench check results/local
bench report --results results/local --out page
test -s page/leaderboard.html
