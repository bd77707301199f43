#!/bin/sh
# The demo, command by command: what a campaign of your own looks like, in small.
set -eu
selector=${1:-selector}
config=configs/demo/campaign.yaml
if [ -d demo-run ]; then
    "$selector" db stop --config "$config"
    rm -rf demo-run
fi
say() { printf '\n$ selector %s\n' "$*"; "$selector" "$@"; }
say init "$config"
say add --config "$config" configs/demo
say plan --config "$config"
say run --config "$config"
say report --config "$config"
"$selector" db stop --config "$config"
