#!/usr/bin/env bash
# Runs the tests of the CUDA ops on a GPU under compute-sanitizer: memory, races, uninitialised reads, barriers.
# Works in a checkout, and in the folder that tools/gpu-check packs, which has the test program next to this script.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
    cat <<'TEXT'
sanitize.sh [--minutes N] [--out DIR] [FILTER]

Runs all four tools of compute-sanitizer on the CUDA tests of the ops whose names contain FILTER (default: all), within N minutes
(default 10). Each tool gets a part of the time, and starts with the ops that share memory between threads: attention and the LM
head. Tests that a tool had no time for are listed. The exit status is 1 only if a tool found something, and 2 if nothing could be
checked.

Limits: buffers are parts of an arena. memcheck knows the chunks of the arena but not the buffers, so it does not find a write
into the next buffer (the emulator does); initcheck does not notice that a buffer was freed and reused without being written.
For example: sanitize.sh --minutes 3 attention::cuda_backward
Needs a GPU, and compute-sanitizer, which is part of the CUDA toolkit.
TEXT
}

die() {
    echo "$*" >&2
    exit "${code:-1}"
}

minutes=10 out="" filter=""
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help)
            usage
            exit 0
            ;;
        --minutes) minutes=${2:?minutes} && shift ;;
        --out) out=${2:?folder} && shift ;;
        -*) code=2 die "unknown option $1 (--help lists them)" ;;
        *) filter=$1 ;;
    esac
    shift
done
command -v compute-sanitizer >/dev/null || die "compute-sanitizer is missing: it is part of the CUDA toolkit; add it to PATH"

binary="$here/ops"
if [ -x "$binary" ] && [ ! -d "$binary" ]; then
    export PATARM_ROOT="$here"
    : "${out:=$here/results/sanitizer}"
else
    command -v cargo >/dev/null || die "there is no program ops next to $0, and no cargo to build it"
    : "${out:=$here/../target/sanitizer}"
    # The path of the test binary is in cargo's message about it.
    binary=$(cd "$here/.." && cargo test --release --no-run --test ops --message-format=json 2>/dev/null |
        sed -n 's/.*"executable":"\([^"]*\/ops-[^"]*\)".*/\1/p' | tail -n 1)
    [ -x "$binary" ] || die "the tests do not build: run cargo test --release --no-run --test ops"
fi
mkdir -p "$out"
export PATARM_TEST_DEVICE=gpu

# Each group runs in its own process, because libtest sorts tests by name, and so that a fault only ends its own group.
GROUPS_BY_PRIORITY=('(^|::)attention::' '(^|::)(lm_head|sample)::' '(^|::)(linear|qk_norm_rope|rmsnorm)::' '.')
TOOLS=(memcheck racecheck initcheck synccheck)
# racecheck is by far the slowest.
declare -A WEIGHT=([memcheck]=3 [racecheck]=4 [initcheck]=2 [synccheck]=1)
declare -A OPTIONS=([memcheck]="--report-api-errors no" [racecheck]="--racecheck-report all" [initcheck]="" [synccheck]="")

# What a tool prints when it finds something. A program that was stopped has no exit code and no summary.
FOUND='========= (ERROR SUMMARY: [1-9]|RACECHECK SUMMARY: [1-9]|Invalid |Misaligned|Uninitialized '
FOUND+='|(Error|Warning): (Race|Potential)|Barrier error|Illegal)'

# Ignored tests are left out: they need more memory or time than there is under a sanitizer.
ignored=$("$binary" --list --ignored 2>/dev/null | sed -n 's/: test$//p')
tests=$("$binary" --list 2>/dev/null | sed -n 's/: test$//p' | grep cuda | grep -F -- "$filter" |
    grep -vxF -- "${ignored:-:none:}" || true)
[ -n "$tests" ] || code=2 die "no CUDA test of the ops has '$filter' in its name"

end=$((SECONDS + $(awk -v m="$minutes" 'BEGIN { print int(60 * m) }')))
weights=0
for tool in "${TOOLS[@]}"; do weights=$((weights + WEIGHT[$tool])); done
found_something=0 checked=0
summary=()

for tool in "${TOOLS[@]}"; do
    left=$((end - SECONDS))
    tool_end=$((SECONDS + (left > 0 ? left * WEIGHT[$tool] / weights : 0)))
    weights=$((weights - WEIGHT[$tool]))
    printf '\n== %s, %d s\n' "$tool" $((tool_end - SECONDS))
    rest="$tests" done_here=0 cut="" findings=0 failed=0
    for group in "${GROUPS_BY_PRIORITY[@]}"; do
        group_tests=$(grep -E -- "$group" <<<"$rest" || true)
        rest=$(grep -vE -- "$group" <<<"$rest" || true)
        [ -n "$group_tests" ] || continue
        seconds=$((tool_end - SECONDS))
        if [ "$seconds" -lt 1 ]; then
            cut+="$group_tests"$'\n'
            continue
        fi
        log="$out/$tool-$(tr -cd 'a-z_' <<<"$group").log"
        status=0
        # shellcheck disable=SC2086 # options are words, and no test's name holds a space
        timeout --kill-after 10 "$seconds" compute-sanitizer --tool "$tool" ${OPTIONS[$tool]} --error-exitcode 3 \
            "$binary" --exact $group_tests --test-threads 1 >"$log" 2>&1 || status=$?
        ended=$(sed -n 's/^test \([^ ]*\) .*/\1/p' "$log")
        # The log has the name, but not the result, of the test that was running when time was up.
        [ "$status" != 124 ] && [ "$status" != 137 ] || ended=$(sed -n 's/^test \([^ ]*\) \.\.\. .*\(ok\|FAILED\)$/\1/p' "$log")
        done_here=$((done_here + $(grep -cxF -- "$group_tests" <<<"$ended" || true)))
        cut+="$(grep -vxF -- "${ended:-:none:}" <<<"$group_tests" || true)"$'\n'
        if [ "$status" = 3 ] || grep -qE "$FOUND" "$log"; then
            findings=1
            grep -F '========= ' "$log" | head -n 40 || true
            echo "the full log: $log"
        elif [ "$status" != 0 ] && [ "$status" != 124 ] && [ "$status" != 137 ]; then
            failed=1
            echo "ended with $status, but $tool found nothing; the end of its log:"
            tail -n 5 "$log"
        fi
    done
    cut=$(sed '/^$/d' <<<"$cut")
    if [ -n "$cut" ]; then
        printf 'not checked by %s, because its time was up or its program ended first: %d of %d tests:\n' \
            "$tool" "$(grep -c . <<<"$cut")" "$(grep -c . <<<"$tests")"
        sed 's/^/    /' <<<"$cut"
    fi
    line="$tool: $done_here of $(grep -c . <<<"$tests") tests"
    [ "$findings" = 0 ] && line+=", nothing found" || line+=", FOUND SOMETHING"
    [ "$failed" = 0 ] || line+=" (a program failed for another reason: see above)"
    summary+=("$line")
    found_something=$((found_something | findings))
    checked=$((checked + done_here))
done

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"
echo "logs of the tools: $out"
[ "$found_something" = 0 ] || exit 1
[ "$checked" -gt 0 ] || code=2 die "nothing was checked"
