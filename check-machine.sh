#!/bin/sh
# Names what this machine lacks, all of it at once, before anything is installed.
python=${1:-python3}
missing=""
"$python" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 14)))' 2>/dev/null \
    || missing="$missing\n  Python 3.11, 3.12 or 3.13 (Debian: apt-get install python3)"
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing\n  Python's venv (Debian: apt-get install python3-venv)"
"$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
    2>/dev/null || missing="$missing\n  Python's headers (Debian: apt-get install python3-dev)"
command -v g++ >/dev/null || missing="$missing\n  g++ (Debian: apt-get install g++)"
free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
[ "$free_kb" -gt 8000000 ] || missing="$missing\n  8 GB of free disk here (torch with CUDA takes most of it)"
if [ -n "$missing" ]; then
    printf 'This machine lacks:%b\n' "$missing" >&2
    exit 1
fi
