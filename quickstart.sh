#!/usr/bin/env bash
# Builds Millrace, starts a cluster on this machine, produces application logs, counts their words
# and shows the batches as they commit and the objects as they appear in S3.
#
#   ./quickstart.sh                  until Ctrl-C
#   ./quickstart.sh --seconds 60     ends by itself; exit code 0 only if output is there
#   ./quickstart.sh --rate 500       records per second (default 1000)
#
# Needs a Rust toolchain, git and a C compiler. Listens on 127.0.0.1 only, writes to a temporary
# directory, and leaves no process and no file behind. Builds into CARGO_TARGET_DIR where that is
# set, else target/.
set -euo pipefail
cd "$(dirname "$0")"

APPLICATION=word-count
STREAM=app-logs
RESULTS=s3://results/word-count/
SHARDS=4
WORKERS=3
# The batches that are on the way when producing ends must come out before the end.
SETTLE_SECONDS=60

seconds=0
rate=1000
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds) seconds="${2:-}"; shift ;;
    --rate) rate="${2:-}"; shift ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "quickstart.sh: unknown argument $1 (next: ./quickstart.sh --help)" >&2; exit 2 ;;
  esac
  shift || true
done
case "$seconds$rate" in
  *[!0-9]* | "") echo "quickstart.sh: --seconds and --rate take whole numbers" >&2; exit 2 ;;
esac

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }

say "building (the first time takes some minutes)"
cargo build --locked --workspace --bins
bin="${CARGO_TARGET_DIR:-$PWD/target}/debug"
export PATH="$bin:$PATH"

dir="$(mktemp -d "${TMPDIR:-/tmp}/millrace-quickstart.XXXXXX")"
producer=""
follower=""

# end PID...: ends children of this script, by id.
end() {
  for pid in "$@"; do
    kill "$pid" 2>/dev/null || true
  done
  for pid in "$@"; do
    wait "$pid" 2>/dev/null || true
  done
}

clean_up() {
  local code=$?
  trap - EXIT
  # Another Ctrl-C must not leave processes behind.
  trap '' INT TERM
  # shellcheck disable=SC2086 # an id or nothing
  end $producer $follower
  if [ $code -ne 0 ] && [ -d "$dir/logs" ]; then
    say "what the processes said last"
    tail -n 15 "$dir"/logs/*.log >&2 || true
  fi
  millrace local down --dir "$dir" >&2 || code=1
  rm -rf "$dir"
  exit $code
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "starting emulator, master and $WORKERS workers"
millrace local up --dir "$dir" --workers "$WORKERS"
environment="$(millrace local env --dir "$dir")"
eval "$environment"

say "producing application logs into stream $STREAM, $rate a second"
millrace produce --stream "$STREAM" --create-shards "$SHARDS" --count "$SHARDS" \
  --generate app-logs --seed 1 >/dev/null
millrace produce --stream "$STREAM" --generate app-logs --seed 2 --rate "$rate" \
  >"$dir/produced" 2>"$dir/producer.log" &
producer=$!

say "submitting examples/word-count/app.toml"
millrace submit --wait examples/word-count/app.toml
started=$SECONDS

cat >&2 <<TEXT

To look around from another terminal:

  export PATH="$bin:\$PATH"
  eval "\$(millrace local env --dir $dir)"
  millrace status $APPLICATION
  millrace logs $APPLICATION --follow
  millrace nodes
  millrace ls $RESULTS
  curl -H "Authorization: Bearer \$(cat \$MILLRACE_TOKEN_FILE)" \$MILLRACE_MASTER/api/v1/applications
TEXT

say "batches as they commit"
millrace batches "$APPLICATION" --follow &
follower=$!

objects() { millrace ls "$RESULTS" --json | { grep -o '"path"' || true; } | wc -l; }

# number KEY: the number under KEY in the status.
number() {
  millrace status "$APPLICATION" --json | sed -n "s/.*\"$1\":\([0-9][0-9]*\).*/\1/p"
}

while [ "$seconds" -eq 0 ] || [ $((SECONDS - started)) -lt "$seconds" ]; do
  if ! kill -0 "$follower" 2>/dev/null; then
    say "the application has ended"
    millrace status "$APPLICATION" >&2
    exit 1
  fi
  sleep 1
  if [ $(((SECONDS - started) % 10)) -eq 9 ]; then
    echo "          $(objects) objects in $RESULTS" >&2
  fi
done

say "ending: no more records, then a drain"
end "$producer"
producer=""
millrace stop "$APPLICATION" --drain --deadline "${SETTLE_SECONDS}s"
wait "$follower" || true
follower=""

say "the newest objects, and a look into one"
millrace ls "$RESULTS" | tail -n 5
newest="$(millrace ls "$RESULTS" | tail -n 1 | awk '{print $NF}')"
millrace cat "$newest" | head -n 5 || true

batches="$(number batch)"
objects="$(objects)"
say "summary"
echo "produced  $(cat "$dir/produced") (and $SHARDS records to make the stream)"
echo "batches   $batches"
echo "records   $(number records_total)"
echo "rows      $(number rows_total)"
echo "objects   $objects"
if [ "${batches:-0}" -eq 0 ] || [ "$objects" -eq 0 ]; then
  echo "quickstart.sh: no batch was committed, or nothing was written" >&2
  exit 1
fi
