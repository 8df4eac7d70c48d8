#!/bin/sh
# usage: setup_venv.sh VENV [PYTHON [LOCK]]: a virtual environment of locked packages and this project (editable).
set -eu
venv=$1
wanted=${2:-}
lock=${3:-requirements/lock.txt}

supported() { # whether "$1" starts and is a Python this project runs on
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
    for candidate in ${wanted:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "graphfuse needs Python 3.10 to 3.13; none found as ${wanted:-python3, python3.10 ... python3.13}." >&2
    echo "Install one, or name it: make PYTHON=/path/to/python3.12" >&2
    exit 2
}

create() { # some systems ship venv without ensurepip: then the pip outside fills the environment
    if "$python" -c 'import ensurepip' >/dev/null 2>&1; then
        "$python" -m venv --clear "$venv"
        return
    fi
    "$python" -m venv --clear --without-pip "$venv"
    "$python" -m pip --python "$venv/bin/python" install -q pip
}

if ! supported "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "creating $venv with $("$python" --version)"
    create
fi
echo "installing the packages of $lock"
"$venv/bin/python" -m pip install -q --disable-pip-version-check -r "$lock"
"$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
