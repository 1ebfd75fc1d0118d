#!/usr/bin/env bash
# Run the tests that depend on rounding with the arithmetic of other kinds of x86-64 processor.
# `pytest` alone uses this processor and one thread. By default there are two runs, one for each other kind: one thread, and two.
# --all adds the other three combinations. The exit code is 1 if a run failed. Other arguments go to pytest.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export OMP_WAIT_POLICY=passive
# Collecting every file would take as long as these tests.
mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.numeric' tests)
runs=("sse 1" "avx2 2")
if [ "${1:-}" = --all ]; then
  runs+=("native 2" "sse 2" "avx2 1")
  shift
fi
failed=0
for run in "${runs[@]}"; do
  read -r processor threads <<<"$run"
  case $processor in
    sse) settings=(ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 BENCH_KERNEL_PATH=portable) ;;
    avx2) settings=(ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 BENCH_KERNEL_PATH=avx2) ;;
    native) settings=() ;;
  esac
  echo "numeric tests: $processor, $threads thread(s)"
  env "${settings[@]}" CAST_BENCH_TEST_THREADS="$threads" OMP_NUM_THREADS="$threads" \
    pytest -m "numeric and not slow and not full and not cuda" "${files[@]}" "$@" || failed=1
done
exit $failed
