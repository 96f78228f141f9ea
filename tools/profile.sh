#!/usr/bin/env bash
# Profiles the CUDA path on a GPU: device time by phase and op, the counters of one kernel (ncu), or a timeline (nsys).
# Works in a checkout, and in the folder that tools/gpu-check packs, which has the programs next to this script.
# It does not change the GPU's clocks.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
    cat <<'TEXT'
profile.sh table train|decode|rl [arguments of bench]        device time by phase and op (needs no profiler)
profile.sh ncu KERNEL [options] [arguments of the kernel bench]
                                                             the most useful counters of a few launches of a kernel
profile.sh timeline train|decode|rl [arguments of bench]     a timeline (nsys), kernels by total time

Options of ncu, before all others: --skip N    launches of the kernel to skip first (default 3)
                                   --count N   launches to measure (default 3)
                                   --out DIR   where to write the report (also for timeline; default: target/profiles, or
                                               results/profiles next to a packed script)

For example: profile.sh table decode --shape 0.6b --batch 64
             profile.sh ncu attention_forward_128_bf16 --shape 0.6b --only attention
KERNEL is a name in benches/kernels.txt, or regex:… for other kernels, such as cuBLASLt's.
TEXT
}

die() {
    echo "$*" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null ||
        die "$1 is missing: it is part of the CUDA toolkit (or of nsight-systems, nsight-compute); add it to PATH"
}

# Sets `found` to an executable of this project: the one next to the script, or else the one that cargo builds.
program() {
    found="$here/$1"
    [ -x "$found" ] && [ ! -d "$found" ] && return
    command -v cargo >/dev/null || die "there is no $1 next to $0, and no cargo to build it"
    local build=(build --bin "$1")
    [ "$1" != kernels ] || build=(bench --bench kernels --no-run)
    found=$(cd "$here/.." && cargo "${build[@]}" $([ "$1" = kernels ] || echo --release) --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
    [ -x "$found" ] || die "cargo built no $1"
}

# In a pack, the script is next to the program; in a checkout it is in tools/.
if [ -x "$here/patarm-train" ]; then out="$here/results/profiles"; else out="$here/../target/profiles"; fi

METRICS=(
    gpu__time_duration.sum
    # Memory.
    dram__bytes_read.sum dram__bytes_write.sum dram__throughput.avg.pct_of_peak_sustained_elapsed
    lts__t_sector_hit_rate.pct l1tex__t_sector_hit_rate.pct
    l1tex__t_bytes_pipe_lsu_mem_local_op_ld.sum l1tex__t_bytes_pipe_lsu_mem_local_op_st.sum
    # Arithmetic.
    sm__throughput.avg.pct_of_peak_sustained_elapsed
    sm__inst_executed_pipe_tensor_op_hmma.avg.pct_of_peak_sustained_active
    sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active
    # Occupancy and what limits it.
    sm__warps_active.avg.pct_of_peak_sustained_active sm__maximum_warps_per_active_cycle_pct
    launch__registers_per_thread launch__shared_mem_per_block_dynamic launch__shared_mem_per_block_static
    launch__grid_size launch__block_size launch__waves_per_multiprocessor
    # Shared memory.
    l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum
    l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum
    # Why warps wait, in warps for each issued instruction.
    smsp__issue_active.avg.pct_of_peak_sustained_active
)
for reason in barrier branch_resolving dispatch_stall drain imc_miss lg_throttle long_scoreboard math_pipe_throttle \
    membar mio_throttle no_instruction not_selected selected short_scoreboard sleeping tex_throttle wait; do
    METRICS+=("smsp__average_warps_issue_stalled_${reason}_per_issue_active.ratio")
done

# Prints a table from a raw page of ncu (CSV: names, units, a line for each launch).
counters_table() {
    python3 - "$1" "$(IFS=,; echo "${METRICS[*]}")" <<'PYTHON'
import csv, sys

path, wanted = sys.argv[1], sys.argv[2].split(",")
rows = [row for row in csv.reader(open(path, newline="")) if len(row) > 5]
start = next((i for i, row in enumerate(rows) if row[0] == "ID"), None)
if start is None or len(rows) < start + 3:
    sys.exit(3)
names, units, launches = rows[start], rows[start + 1], [row for row in rows[start + 2:] if len(row) == len(rows[start])]
column = {name: i for i, name in enumerate(names)}

def number(text):
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None

def values(name):
    if name not in column:
        return []
    return [v for v in (number(row[column[name]]) for row in launches) if v is not None]

def shown(value, unit):
    text = f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.2f}"
    return f"{text} {unit}".strip()

STALL, ISSUE = "smsp__average_warps_issue_stalled_", "_per_issue_active.ratio"
print(f"{launches[0][column['Kernel Name']]}: the median of {len(launches)} launches, then the lowest and the highest")
missing = []
for name in wanted:
    if name.startswith(STALL):
        continue
    found = sorted(values(name))
    if not found:
        missing.append(name)
        continue
    unit = units[column[name]]
    spread = "" if found[0] == found[-1] else f"   ({shown(found[0], unit)} … {shown(found[-1], unit)})"
    print(f"  {name:72} {shown(found[len(found) // 2], unit):>20}{spread}")
stalls = {n[len(STALL):-len(ISSUE)]: values(n) for n in column if n.startswith(STALL) and n.endswith(ISSUE)}
stalls = sorted(((sorted(v)[len(v) // 2], name) for name, v in stalls.items() if v), reverse=True)
if stalls:
    print("  why warps wait, in warps for each issued instruction:")
    for value, name in stalls[:6]:
        print(f"    {name:30} {value:8.2f}")
else:
    missing.append(STALL + "…")
if missing:
    print("  not collected by this ncu: " + ", ".join(missing))
if len(missing) > len(wanted) // 2 and not stalls:
    sys.exit(3)
PYTHON
}

# Runs ncu. Its options come first, then "--", then the program. Sets `report`; fails if it contains no launch.
collect() {
    local ask=()
    while [ "$1" != -- ]; do ask+=("$1"); shift; done
    shift
    attempt=$((attempt + 1))
    report="$out/${kernel//[^A-Za-z0-9_]/_}-$started-$attempt"
    # The program's exit status does not matter: ncu stops it after the last launch that it measures.
    ncu --clock-control none --kernel-name "$kernel" --launch-skip "$skip" --launch-count "$count" --kill yes \
        --force-overwrite --export "$report" "${ask[@]}" "$@" >"$report.log" 2>&1 || true
    if grep -q ERR_NVGPUCTRPERM "$report.log"; then
        die "only administrators can read the GPU's counters on this machine (ERR_NVGPUCTRPERM): run this as root, give the
container CAP_SYS_ADMIN, or have the driver loaded with NVreg_RestrictProfilingToAdminUsers=0.
'profile.sh table' needs none of these."
    fi
    [ -f "$report.ncu-rep" ] || return 1
    ncu --import "$report.ncu-rep" --page raw --csv --print-units base >"$report.csv" 2>>"$report.log" || return 1
    counters_table "$report.csv" >"$report.txt"
}

case "${1:-}" in
    table)
        what=${2:?"train, decode or rl"}
        shift 2
        program patarm-train
        exec "$found" bench "$what" --device cuda --profile "$@"
        ;;
    ncu | timeline)
        need "$([ "$1" = ncu ] && echo ncu || echo nsys)"
        mode=$1 kernel=${2:?"the name of a kernel (benches/kernels.txt), or of a bench"}
        shift 2
        skip=3 count=3
        while [ $# -gt 1 ]; do
            case "$1" in
                --skip) skip=$2 ;;
                --count) count=$2 ;;
                --out) out=$2 ;;
                *) break ;;
            esac
            shift 2
        done
        mkdir -p "$out"
        out="$(cd "$out" && pwd)"
        ;;
    *)
        usage
        [ "${1:-}" = --help ] || [ "${1:-}" = -h ] || exit 2
        exit 0
        ;;
esac

if [ "$mode" = timeline ]; then
    program patarm-train
    report="$out/$kernel-$(date +%Y%m%d-%H%M%S)"
    nsys profile --trace=cuda,nvtx,cublas,osrt --output "$report" "$found" bench "$kernel" --device cuda --runs 2 "$@"
    nsys stats --report cuda_gpu_kern_sum --report cuda_api_sum "$report.nsys-rep"
    echo "timeline: $report.nsys-rep (open it with nsys-ui)"
    exit 0
fi

need python3
python3 -c '' || die "python3 is installed but does not run; it prints the table"
program kernels
attempt=0
started="$(date +%Y%m%d-%H%M%S)-$$"
sections=(SpeedOfLight MemoryWorkloadAnalysis WarpStateStats Occupancy LaunchStats)
if ! collect --metrics "$(IFS=,; echo "${METRICS[*]}")" -- "$found" --bench "$@"; then
    echo "this ncu does not accept all of these metrics; trying its full set (slower):"
    tail -n 3 "$report.log"
    if ! collect --set full -- "$found" --bench "$@"; then
        echo "it does not accept the full set either; trying sections:"
        tail -n 3 "$report.log"
        collect $(printf -- '--section %s ' "${sections[@]}") -- "$found" --bench "$@" || {
            tail -n 20 "$report.log" >&2
            die "ncu saw no launch of $kernel after the first $skip (--skip), or none of its counters; see its log: $report.log"
        }
    fi
fi
cat "$report.txt"
echo "table: $report.txt, all values: $report.csv, report: $report.ncu-rep (open it with ncu-ui)"
