#!/usr/bin/env bash
# Proves and measures the CUDA kernels on a machine with a CUDA GPU, in one call and without a network.
# shellcheck disable=SC2317  # the steps are called by their names
set -u -o pipefail

usage() {
    cat <<'USAGE'
benchmarks/gpu_check.sh [--only STEPS] [--skip STEPS] [--resume] [--dry-run] [--rehearse] [OUT_DIR]

Needs Linux, a CUDA GPU, nvcc, Python >= 3.10 and torch >= 2.11 in that Python. Takes less than eight minutes. Steps, in
order (STEPS is a comma-separated list of them):

  install    builds from this tree for the GPU present, without build isolation (or installs WHEEL)
  pipeline   large maps with and without the pipeline: values first, then times, and which one won
  tests      the test suite's cases on CUDA, with CAMFAST_REQUIRE_CUDA=1, against what was installed
  sanitizer  compute-sanitizer's memcheck, racecheck, initcheck, synccheck over every kernel variant (beside the tests)
  ops        every op against copy bandwidth, an empty kernel, eager PyTorch, torch.compile
  explain    whole explanations against the plain forward, and other libraries where installed
  realtime   the real-time engine: frames a second and latency, with frames on the device and in memory
  ncu        hardware counters of the main kernels, where the machine allows it

OUT_DIR (default build/gpu_check) gets gpu.json, gpu.txt (a short table, also printed) and gpu_check.log. A failed step does
not stop the others; the exit code is non-zero when any failed. What hardware counters or a slow machine do not allow is
named in the table.

  --resume    go on where an earlier call for the same commit and OUT_DIR, also with --resume, stopped: the build, and the steps
              that passed, are kept in OUT_DIR/work and not repeated
  --dry-run   print the commands only
  --rehearse  no GPU: the same steps on the processor, to try the script itself

Environment:
  PYTHON=python3          the interpreter that has torch
  WHEEL=FILE              install this wheel instead of building
  SITE=DIR                where it is installed; a later call with the same SITE can leave install out
  TORCH_CUDA_ARCH_LIST    architectures to build for (default: those present)
  TOTAL_LIMIT=470         seconds for everything; LIMIT_INSTALL, LIMIT_TESTS, ... for a step
  TEST_WORKERS=4          test processes, where pytest-xdist is installed
  SANITIZER_TOOLS="memcheck racecheck initcheck synccheck"
  SANITIZER_PARTS=2       processes a tool
  PYTEST_ARGS="-k cuda -v", SANITIZER_ARGS, PIPELINE_ARGS, OPS_ARGS, EXPLAIN_ARGS, REALTIME_ARGS     further arguments, split at blanks
  KEEP_WORK=1             keep the working folder
USAGE
}

readonly STEPS="install pipeline tests sanitizer ops explain realtime ncu"
readonly TAB=$'\t'
readonly UNAVAILABLE=77 # exit code of a step that this machine does not allow

# ---------------------------------------------------------------------------------------------------------- the steps

run() {
    printf '+ %s\n' "$*"
    [ -n "$DRY_RUN" ] || "$@"
}

step_install() {
    local source="$WORK/source"
    if [ -n "${WHEEL:-}" ]; then
        source="$WHEEL"
    fi
    # Registers and spills of every kernel, on stderr, for the report.
    export NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} -Xptxas=-v"
    if [ -n "$REHEARSE" ]; then
        export CAMFAST_NO_CUDA=1
    else
        export FORCE_CUDA=1
    fi
    run "$PYTHON" -m pip install -v --no-build-isolation --no-deps --no-index --no-cache-dir \
        --disable-pip-version-check --upgrade --target "$SITE" "$source" || return 1
    step_import
}

# The installed package, not the tree, must be what everything below imports.
step_import() {
    run "$PYTHON" "$BENCH/gpu_report.py" installed ${REHEARSE:+--cpu}
}

step_pipeline() {
    # shellcheck disable=SC2086
    run "$PYTHON" "$BENCH/bench_pipeline.py" --device "$DEVICE" --deadline $((STEP_LIMIT - 8)) \
        --output "$WORK/pipeline.json" ${REHEARSE:+--quick} ${PIPELINE_ARGS:-}
}

# A pipeline that hangs, and is off by default, must not take the other results along.
pipeline_failed() {
    grep -Eq "^pipeline$TAB(failed|out of time)" "$WORK/steps.tsv" 2>/dev/null
}

step_tests() {
    local workers=()
    if "$PYTHON" -c 'import xdist' 2>/dev/null; then
        workers=(-n "${TEST_WORKERS:-4}" --dist worksteal)
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
    fi
    # The emulator's tests need no GPU; neither do the cases on the processor, which are thousands.
    # Names as they come (-v): a run that is cut short still says what failed.
    local chosen="-k cuda --ignore=tests/ops/test_cuda_kernels.py -v --tb=short"
    ! pipeline_failed || chosen+=" --ignore=tests/ops/test_pipeline.py"
    if [ -n "$REHEARSE" ]; then
        chosen=
    else
        export CAMFAST_REQUIRE_CUDA=1
    fi
    # shellcheck disable=SC2086
    (cd "$WORK/run" && run "$PYTHON" -m pytest tests -p no:cacheprovider "${workers[@]}" \
        --junitxml="$WORK/tests.xml" ${PYTEST_ARGS:-$chosen})
}

step_sanitizer() {
    if [ -n "$REHEARSE" ]; then
        # shellcheck disable=SC2086
        run "$PYTHON" "$BENCH/sanitizer_run.py" --device cpu --quick ${SANITIZER_ARGS:-}
        return
    fi
    ! pipeline_failed || SANITIZER_ARGS="--no-pipeline ${SANITIZER_ARGS:-}"
    local sanitizer tool failed=0 pids=() names=() tools
    sanitizer=$(find_tool compute-sanitizer) || {
        echo "compute-sanitizer: not found on PATH, beside nvcc, or under CUDA_HOME"
        return 1
    }
    read -ra tools <<<"${SANITIZER_TOOLS:-memcheck racecheck initcheck synccheck}"
    # Also without a checker, compared with the reference, over memory full of NaN.
    # shellcheck disable=SC2086
    run "$PYTHON" "$BENCH/sanitizer_run.py" --quick --poison ${SANITIZER_ARGS:-} >"$WORK/sanitizer-none.out" 2>&1 &
    local plain=$! part name parts=${SANITIZER_PARTS:-2}
    # An allocation a tensor: what runs over one tensor's end must not fall into another's.
    export PYTORCH_NO_CUDA_MEMORY_CACHING=1
    for tool in "${tools[@]}"; do
        for ((part = 0; part < parts; part++)); do
            # shellcheck disable=SC2086
            run "$sanitizer" --tool "$tool" --error-exitcode 86 --report-api-errors no \
                --log-file "$WORK/sanitizer-$tool-$part.log" "$PYTHON" "$BENCH/sanitizer_run.py" --quick --launch-only \
                --part "$part" "$parts" ${SANITIZER_ARGS:-} >"$WORK/sanitizer-$tool-$part.out" 2>&1 &
            pids+=($!)
            names+=("$tool-$part")
        done
    done
    wait "$plain" || failed=1
    echo "== compared with the reference"
    tail -n 15 "$WORK/sanitizer-none.out"
    local i code
    for i in "${!names[@]}"; do
        name=${names[$i]}
        wait "${pids[$i]}"
        code=$?
        # A checker that found nothing says so; silence is no proof.
        [ "$code" -eq 0 ] && grep -Eqs 'SUMMARY: 0 (errors|hazards)' "$WORK/sanitizer-$name.log" || failed=1
        [ -n "$DRY_RUN" ] || printf '%s\t%s\n' "$name" "$code" >>"$WORK/sanitizer.tsv"
        echo "== $name: exit code $code"
        tail -n 15 "$WORK/sanitizer-$name.out" "$WORK/sanitizer-$name.log" 2>/dev/null
    done
    [ -n "$DRY_RUN" ] || return "$failed"
}

step_ops() {
    # shellcheck disable=SC2086
    run "$PYTHON" "$BENCH/bench_ops.py" --device "$DEVICE" --seconds 0.3 --deadline $((STEP_LIMIT - 10)) \
        --output "$WORK/ops.json" --no-chart --compile few ${REHEARSE:+--quick --compile none --only grad_cam} ${OPS_ARGS:-}
}

step_explain() {
    # shellcheck disable=SC2086
    run "$PYTHON" "$BENCH/bench_explain.py" --device "$DEVICE" --seconds 0.6 --deadline $((STEP_LIMIT - 12)) \
        --output "$WORK/explain.json" --no-chart ${REHEARSE:+--models mobilenet_v3_large --batch 1 --memory} ${EXPLAIN_ARGS:-}
}

step_realtime() {
    # shellcheck disable=SC2086
    run "$PYTHON" "$BENCH/bench_realtime.py" --device "$DEVICE" --output "$WORK/realtime.json" \
        ${REHEARSE:+--models mobilenet_v3_large --frames 10} ${REALTIME_ARGS:-}
}

step_ncu() {
    local ncu metrics
    if [ -n "$REHEARSE" ]; then
        echo "hardware counters: nothing to rehearse without a GPU"
        return "$UNAVAILABLE"
    fi
    ncu=$(find_tool ncu) || {
        echo "ncu: not found"
        return "$UNAVAILABLE"
    }
    metrics=gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum
    metrics+=,dram__throughput.avg.pct_of_peak_sustained_elapsed,lts__t_bytes.sum
    metrics+=,sm__warps_active.avg.pct_of_peak_sustained_active,launch__registers_per_thread
    metrics+=,launch__grid_size,launch__block_size,launch__shared_mem_per_block
    run "$ncu" --clock-control none --profile-from-start off --target-processes application-only --csv --page raw --print-units base \
        --metrics "$metrics" --log-file "$WORK/ncu.csv" "$PYTHON" "$BENCH/ncu_run.py" --labels "$WORK/ncu-cases.json"
    local code=$?
    [ -n "$DRY_RUN" ] && return 0
    cat "$WORK/ncu.csv" 2>/dev/null
    if grep -q -e ERR_NVGPUCTRPERM -e LibraryNotLoaded -e 'Failed to initialize' -e 'not supported' "$WORK/ncu.csv" 2>/dev/null; then
        echo "ncu: this machine does not let it read the counters"
        return "$UNAVAILABLE"
    fi
    return "$code"
}

# A tool of the CUDA toolkit, wherever the toolkit is.
find_tool() {
    local folder
    command -v "$1" && return
    [ -n "$DRY_RUN" ] && echo "$1" && return
    for folder in "${CUDA_HOME:-}/bin" "$(dirname "$(readlink -f "$(command -v nvcc || echo /)")")" \
        /usr/local/cuda/bin /opt/nvidia/nsight-compute/*; do
        [ -x "$folder/$1" ] && echo "$folder/$1" && return
    done
    return 1
}

# ------------------------------------------------------------------------------------------------------- the procedure

# Runs steps side by side, each in a process group of its own, within its time and what is left of the total; notes how they
# went.
perform() {
    local name limit code status left start=$SECONDS
    local -A limits=() pids=()
    left=$((TOTAL_LIMIT - SECONDS - 5))
    for name in "$@"; do
        limit="LIMIT_${name^^}"
        limit=${!limit}
        [ "$limit" -le "$left" ] || limit=$left
        if [ "$limit" -lt 15 ]; then
            note "$name" "no time left" 0
            continue
        fi
        limits[$name]=$limit
        echo "== $name (at most $limit s)"
        STEP_LIMIT=$limit timeout -k 5 "$limit" bash "$SELF" --step "$name" >"$WORK/$name.log" 2>&1 &
        pids[$name]=$!
        CHILDREN+=($!)
    done
    for name in "$@"; do
        [ -n "${pids[$name]:-}" ] || continue
        wait "${pids[$name]}"
        code=$?
        case $code in
            0) status=passed ;;
            "$UNAVAILABLE") status=unavailable ;;
            124 | 137) status="out of time" ;;
            *) status=failed ;;
        esac
        { printf '\n======== %s\n' "$name" && cat "$WORK/$name.log"; } >>"$LOG"
        note "$name" "$status" $((SECONDS - start))
        [ "$FAILED_STEP" = 0 ] || tail -n 25 "$WORK/$name.log" | cut -c1-200 | sed 's/^/   | /'
    done
    CHILDREN=()
}

note() {
    if [ -f "$WORK/steps.tsv" ]; then # what a step's earlier attempt came to no longer counts
        grep -v "^$1$TAB" "$WORK/steps.tsv" >"$WORK/steps.part"
        mv "$WORK/steps.part" "$WORK/steps.tsv"
    fi
    printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$WORK/steps.tsv"
    echo "   $1: $2 ($3 s)"
    FAILED_STEP=0
    case $2 in
        passed | unavailable) ;;
        *) FAILED=1 FAILED_STEP=1 ;;
    esac
    # After every step, so that a run that is cut short leaves what it had.
    [ -n "$DRY_RUN" ] || "$PYTHON" "$BENCH/gpu_report.py" write "$WORK" "$OUT" >>"$LOG" 2>&1 || FAILED=1
}

selected() {
    [[ ",${ONLY:-${STEPS// /,}}," == *",$1,"* && ",$SKIP," != *",$1,"* ]] && ! passed_before "$1"
}

# Whether an earlier call, gone on with now, has left this step's results.
passed_before() {
    [ -n "$RESUME" ] && grep -q "^$1${TAB}passed" "$WORK/earlier.tsv" 2>/dev/null
}

check_names() {
    local name
    for name in ${1//,/ }; do
        if [[ " $STEPS " != *" $name "* ]]; then
            echo "gpu_check.sh: expected steps of: $STEPS; got '$name'" >&2
            exit 2
        fi
    done
}

# A copy of the sources: the build leaves nothing in the tree, and nothing of the tree is imported by accident.
copy_tree() {
    mkdir -p "$WORK/source"
    if git -C "$ROOT" ls-files -z -co --exclude-standard >"$WORK/files" 2>/dev/null && [ -s "$WORK/files" ]; then
        tar -C "$ROOT" --null -T "$WORK/files" --ignore-failed-read -cf - 2>>"$LOG" | tar -C "$WORK/source" -xf -
    else
        tar -C "$ROOT" --exclude='./.?*' --exclude=./build --exclude=./dist --exclude='*.so' --exclude=__pycache__ \
            -cf - . | tar -C "$WORK/source" -xf -
    fi
    cp -r "$WORK/source" "$WORK/run" && rm -rf "$WORK/run/camfast"
}

finish() {
    local code=$?
    trap - EXIT INT TERM
    [ "${#CHILDREN[@]}" = 0 ] || kill "${CHILDREN[@]}" 2>/dev/null # timeout hands it on to the step's whole group
    if [ -n "${KEEP_WORK:-}" ] || [ -n "$RESUME" ]; then
        echo "working folder: $WORK"
    else
        rm -rf "$WORK"
    fi
    exit "$code"
}

main() {
    ONLY="" SKIP="" OUT="" RESUME=""
    while [ $# -gt 0 ]; do
        case $1 in
            --only) ONLY=${2:?--only needs steps} && shift ;;
            --only=*) ONLY=${1#*=} ;;
            --skip) SKIP=${2:?--skip needs steps} && shift ;;
            --skip=*) SKIP=${1#*=} ;;
            --resume) RESUME=1 ;;
            --dry-run) DRY_RUN=1 ;;
            --rehearse) REHEARSE=1 ;;
            -h | --help) usage && exit 0 ;;
            -*) echo "gpu_check.sh: unknown option $1" >&2 && usage >&2 && exit 2 ;;
            *) OUT=$1 ;;
        esac
        shift
    done
    check_names "$ONLY,$SKIP"
    ROOT=$(cd "$(dirname "$SELF")/.." && pwd)
    OUT=${OUT:-$ROOT/build/gpu_check}
    mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 2
    LOG=$OUT/gpu_check.log
    rm -f "$OUT/gpu.json" "$OUT/gpu.txt"
    PYTHON=$(command -v "$PYTHON") || { echo "gpu_check.sh: no Python found" >&2 && exit 2; }
    [[ $PYTHON == /* ]] || PYTHON=$PWD/$PYTHON
    CAMFAST_COMMIT=${CAMFAST_COMMIT:-$(commit)}
    if [ -n "$RESUME" ]; then
        WORK=$OUT/work
        # What another commit left, or changes without one ("+"), is no part of this run.
        [[ $CAMFAST_COMMIT != *+ && $(cat "$WORK/commit" 2>/dev/null) == "$CAMFAST_COMMIT" ]] || rm -rf "$WORK"
        mkdir -p "$WORK" && printf '%s' "$CAMFAST_COMMIT" >"$WORK/commit" || exit 2
    else
        WORK=$(mktemp -d) || exit 2
    fi
    [ -f "$WORK/steps.tsv" ] || : >"$LOG"
    CHILDREN=()
    trap finish EXIT
    trap 'exit 143' TERM
    trap 'exit 130' INT
    SITE=${SITE:-$WORK/site}
    BENCH=$WORK/run/benchmarks
    DEVICE=cuda
    [ -z "$REHEARSE" ] || DEVICE=cpu
    [ -z "${WHEEL:-}" ] || WHEEL=$(readlink -f "$WHEEL")
    command -v nvcc >/dev/null || [ ! -x /usr/local/cuda/bin/nvcc ] || PATH=$PATH:/usr/local/cuda/bin
    TOTAL_LIMIT=${TOTAL_LIMIT:-470}
    LIMIT_INSTALL=${LIMIT_INSTALL:-150} LIMIT_PIPELINE=${LIMIT_PIPELINE:-45} LIMIT_TESTS=${LIMIT_TESTS:-150} LIMIT_SANITIZER=${LIMIT_SANITIZER:-110}
    LIMIT_OPS=${LIMIT_OPS:-95} LIMIT_EXPLAIN=${LIMIT_EXPLAIN:-80} LIMIT_REALTIME=${LIMIT_REALTIME:-60} LIMIT_NCU=${LIMIT_NCU:-40}
    export CAMFAST_COMMIT ROOT OUT LOG WORK SITE BENCH DEVICE WHEEL PATH PYTHON DRY_RUN REHEARSE
    export PYTHONPATH="$SITE${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

    [ -d "$WORK/run/benchmarks" ] || copy_tree || { echo "gpu_check.sh: the sources could not be copied" >&2 && exit 2; }
    cd "$WORK" || exit 2
    if [ -z "$DRY_RUN" ]; then
        "$PYTHON" "$BENCH/gpu_report.py" machine "$WORK/machine.json" ${REHEARSE:+--cpu} || exit 2
        TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$PYTHON" "$BENCH/gpu_report.py" architectures "$WORK/machine.json")}
        [ -z "$TORCH_CUDA_ARCH_LIST" ] || export TORCH_CUDA_ARCH_LIST
    fi
    FAILED=0
    [ ! -f "$WORK/steps.tsv" ] || cp "$WORK/steps.tsv" "$WORK/earlier.tsv"
    local name
    for name in $STEPS; do
        selected "$name" || continue
        case $name in
            tests) if selected sanitizer; then perform tests sanitizer; else perform tests; fi ;; # nothing is timed in them
            sanitizer) selected tests || perform sanitizer ;;
            *) perform "$name" ;;
        esac
        # After a failed build an older camfast elsewhere must not stand in for this one.
        if [ "$name" = install ] && [ -z "$DRY_RUN" ] && { [ "$FAILED" = 1 ] || ! step_import >>"$LOG" 2>&1; }; then
            echo "gpu_check.sh: camfast is not installed for $PYTHON; nothing else can run (see $LOG)" >&2
            FAILED=1
            break
        fi
    done
    [ -n "$DRY_RUN" ] && cat "$LOG"
    [ ! -f "$OUT/gpu.txt" ] || { echo && cat "$OUT/gpu.txt"; }
    exit "$FAILED"
}

commit() {
    local head
    head=$(git -C "$ROOT" rev-parse HEAD 2>/dev/null) || { echo unknown && return; }
    [ -z "$(git -C "$ROOT" status --porcelain -- camfast csrc setup.py 2>/dev/null)" ] || head+="+"
    echo "$head"
}

SELF=$(readlink -f "${BASH_SOURCE[0]}")
PYTHON=${PYTHON:-python3}
DRY_RUN=${DRY_RUN:-}
REHEARSE=${REHEARSE:-}
if [ "${1:-}" = --step ]; then
    "step_$2"
    exit
fi
main "$@"
