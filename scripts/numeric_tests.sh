#!/usr/bin/env bash
# The tests that depend on rounding, with the arithmetic of three kinds of x86-64 processor, on one thread and on two.
# Five runs: `pytest` alone is the sixth, on this processor with one thread. All are made; the exit code is 1 if one failed.
# Arguments go to pytest.
set -uo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=passive
failed=0
for processor in sse avx2 native; do
  case $processor in
    sse) settings=(ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 BENCH_KERNEL_PATH=portable) ;;
    avx2) settings=(ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 BENCH_KERNEL_PATH=avx2) ;;
    native) settings=() ;;
  esac
  for threads in 1 2; do
    [ "$processor $threads" = "native 1" ] && continue
    echo "numeric tests: $processor, $threads thread(s)"
    env "${settings[@]}" CAST_BENCH_TEST_THREADS=$threads OMP_NUM_THREADS=$threads \
      pytest -m "numeric and not slow and not cuda" "$@" || failed=1
  done
done
exit $failed
