#!/usr/bin/env bash
# Runs the CUDA tests on a GPU under compute-sanitizer: memory, races, uninitialised reads, barriers.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'EOF'
tools/sanitize.sh [FILTER]    all four tools over the CUDA tests whose names contain FILTER (default: cuda)

For example: tools/sanitize.sh attention::cuda_backward
Needs compute-sanitizer, which comes with the CUDA toolkit, and a GPU. Slow: name one op where you can.
EOF
}

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    usage
    exit 0
fi
if ! command -v compute-sanitizer >/dev/null; then
    echo "compute-sanitizer is missing: it comes with the CUDA toolkit; add it to PATH" >&2
    exit 1
fi
filter=${1:-cuda}
# The path of the test binary stands in the message that cargo prints for it.
binary=$(cargo test --release --no-run --test ops --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\/ops-[^"]*\)".*/\1/p' | tail -n 1)
[ -x "$binary" ] || { echo "the tests do not build: run cargo test --release --no-run --test ops" >&2; exit 1; }
failed=0
for tool in memcheck racecheck initcheck synccheck; do
    printf '\n== %s\n' "$tool"
    PATARM_TEST_DEVICE=gpu compute-sanitizer --tool "$tool" --error-exitcode 3 \
        "$binary" "$filter" --test-threads 1 || failed=1
done
exit "$failed"
