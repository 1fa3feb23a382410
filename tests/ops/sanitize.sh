#!/usr/bin/env bash
# The CPU kernels under a sanitizer, through the fuzzed calls and the ops' own tests, in a copy of the tree:
#
#   tests/ops/sanitize.sh address,undefined     reads and writes out of bounds, overflow, wrong shifts and conversions
#   tests/ops/sanitize.sh thread                races among the kernels' threads
#
# PYTHON names an interpreter with torch and what the tests need. CALLS says how many fuzzed calls are made. Reports are
# shown at the end, with their number; it must be 0. KEEP=FOLDER builds there, and builds again only what has changed.
set -euo pipefail
cd "$(dirname "$0")/../.."
kind=${1:-address,undefined} python=${PYTHON:-python} calls=${CALLS:-3000}
work=${KEEP:-$(mktemp -d)}
[ -n "${KEEP:-}" ] || trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
git ls-files --cached --others --exclude-standard | tar --create --files-from - | tar --extract --directory "$work"
cd "$work"
rm -rf reports && mkdir reports
CAMFAST_NO_CUDA=1 CAMFAST_SANITIZE=$kind "$python" setup.py build_ext --inplace >build.log 2>&1 || { tail -n 40 build.log; exit 1; }

runtime=$([ "$kind" = thread ] && echo libtsan.so || echo libasan.so)
# The interpreter and torch are not instrumented: their leaks are not ours, and of their threads nothing is known. What
# OpenMP's fork and join order, csrc/cpu/team.h says. Reports go to files, since pytest keeps what passing tests write.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:log_path=$work/reports/asan
export UBSAN_OPTIONS=print_stacktrace=1:log_path=$work/reports/ubsan
export TSAN_OPTIONS=ignore_noninstrumented_modules=1:log_path=$work/reports/tsan
export CAMFAST_FUZZ_CALLS=$calls OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} OMP_WAIT_POLICY=passive PYTHONPATH=$work
tests="tests/ops/test_fuzz.py"
[ "$kind" = thread ] || tests="$tests tests/ops/test_ops.py tests/ops/test_edges.py"
status=0
LD_PRELOAD="$(gcc -print-file-name=$runtime) $(gcc -print-file-name=libstdc++.so)" \
  "$python" -m pytest -q -p no:cacheprovider $tests -k "not compile and not export and not memory" || status=$?
find reports -type f -exec cat {} +
found=$(find reports -type f -exec cat {} + | grep -c -E 'WARNING: ThreadSanitizer|ERROR: AddressSanitizer|runtime error' || true)
echo "$kind: $calls fuzzed calls of a kind, $found reports"
[ "$status" = 0 ] && [ "$found" = 0 ]
