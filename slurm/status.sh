#!/usr/bin/env bash
# How far the jobs of slurm/pipeline.sh are, and the reason where one has failed. On the login node:
#
#   bash slurm/status.sh                 now
#   bash slurm/status.sh --wait          until all have ended
#
# Ends with 0 if all is well, and with 1 where a stage has failed or was cancelled.
cd "$(dirname "$0")/.." || exit
# shellcheck source=slurm/common.sh
. slurm/common.sh status login || exit
chain=$root/.chain
[ -s "$chain" ] || stop "no chain was started in $root: bash slurm/pipeline.sh"

# Of an array the state of its worst task; Slurm forgets jobs within minutes of their end, and then its accounting knows.
state() {
    local found
    found=$(scontrol show job "$1" 2>/dev/null | sed -n 's/^ *JobState=\([A-Z_]*\).*/\1/p') || true
    [ -n "$found" ] || found=$(sacct -X -n -P -j "$1" -o State 2>/dev/null) || true
    for worst in FAILED TIMEOUT OUT_OF_MEMORY NODE_FAIL BOOT_FAIL DEADLINE CANCELLED RUNNING COMPLETING CONFIGURING SUSPENDED \
        REQUEUE PREEMPTED PENDING COMPLETED; do
        if grep -q "$worst" <<<"$found"; then echo "$worst"; return; fi
    done
    echo unknown
}

while :; do
    lines='' failed='' cancelled='' left=''
    while read -r name job log; do
        now=$(state "$job")
        said=$(tail -n 1 "$log" 2>/dev/null | cut -c 1-100) || true
        lines+=$(printf '%-10s %8s  %-10s %s' "$name" "$job" "$now" "$said")$'\n'
        case $now in
            FAILED | TIMEOUT | OUT_OF_MEMORY | NODE_FAIL | BOOT_FAIL | DEADLINE) failed=${failed:-$name $job $now $log} ;;
            CANCELLED) cancelled=${cancelled:-$name $job} ;; # what waits for a failed stage is cancelled, too
            PENDING | RUNNING | COMPLETING | CONFIGURING | SUSPENDED | REQUEUE | PREEMPTED) left=1 ;;
        esac
    done <"$chain"
    if [ "${1:-}" != --wait ] || [ -z "$left" ]; then break; fi
    [ "$lines" = "${before:-}" ] || printf '%s\n' "$lines"
    before=$lines
    sleep "${EVERY:-10}"
done
printf '%s' "$lines"
if [ -n "$failed" ]; then
    read -r name job now log <<<"$failed"
    # of an array the log of the task that failed
    found=$(scontrol show job "$job" 2>/dev/null | awk -v RS= -v state="JobState=$now" 'index($0, state) { sub(/.*StdErr=/, ""); sub(/[ \n].*/, ""); print }' | sed -n 1p) || true
    log=${found:-$log}
    echo
    echo "$name failed ($now, job $job); $log ends so:"
    tail -n 15 "$log"
    exit 1
fi
if [ -n "$cancelled" ]; then
    read -r name job <<<"$cancelled"
    by=$(sacct -X -n -P -j "$job" -o State 2>/dev/null | sed -n 's/^CANCELLED by \([0-9]*\).*/\1/p' | sed -n 1p) || true
    [ -z "$by" ] || by=" by $(id -nu "$by" 2>/dev/null || echo "user $by")" # a user of the accounting may have no name here
    echo
    echo "$name was cancelled$by (job $job), and what waits for it does not start. The same slurm/pipeline.sh line goes on"
    exit 1
fi
