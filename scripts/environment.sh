# SPDX-License-Identifier: Apache-2.0
# Source this in bash after `make setup` to use what it made: the Python environment, ROS 2,
# fer_msgs, and the commands fer_node, fer_replay, fer_publish, fer_view, fer_evaluate,
# fer_example_greeter, fer_assets and fer_train.
#
#     source scripts/environment.sh
#
# With FER_WITHOUT_MESSAGES set, the fer_msgs that the set-up built are left out: `make build`
# builds them anew. DDS stays on this machine unless ROS_AUTOMATIC_DISCOVERY_RANGE (or, for
# Humble, ROS_LOCALHOST_ONLY) says otherwise.

fer_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fer_venv=$fer_root/.venv

if [ ! -x "$fer_venv/bin/python" ]; then
    echo "error: there is no environment in $fer_venv: run 'make setup' first" >&2
    return 1
fi

# fer_without FOLDER PATHS: print a colon-separated list without the entries below a folder.
fer_without() {
    local entry kept=
    local IFS=:
    for entry in $2; do
        case $entry/ in
            "$1"/*) ;;
            *) kept=${kept:+$kept:}$entry ;;
        esac
    done
    printf '%s' "$kept"
}

# What is below the checkout is named anew here. Else an install folder that was sourced earlier
# would hide the checkout's own code.
for fer_variable in PATH PYTHONPATH LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH; do
    export "$fer_variable=$(fer_without "$fer_root" "${!fer_variable:-}")"
done

export VIRTUAL_ENV=$fer_venv
export PATH=$fer_venv/bin:$PATH
fer_ros=$(cat "$fer_venv/ros_from")
if [ "$fer_ros" = wheels ]; then
    export AMENT_PREFIX_PATH=$fer_venv CMAKE_PREFIX_PATH=$fer_venv
    unset PYTHONPATH  # nothing of another Python or another ROS
fi
if [ -z "${FER_WITHOUT_MESSAGES:-}" ]; then
    # By hand instead of colcon's setup.bash, which fails in a folder with a space in its name.
    fer_messages=$fer_venv/messages
    export AMENT_PREFIX_PATH=$fer_messages${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}
    export CMAKE_PREFIX_PATH=$fer_messages${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}
    export LD_LIBRARY_PATH=$fer_messages/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    for fer_python in "$fer_messages"/lib/python3*/*-packages \
            "$fer_messages"/local/lib/python3*/*-packages; do
        [ -d "$fer_python" ] && export PYTHONPATH=$fer_python${PYTHONPATH:+:$PYTHONPATH}
    done
fi

if [ "$fer_ros" = humble ]; then
    export ROS_LOCALHOST_ONLY=${ROS_LOCALHOST_ONLY:-1}
else
    export ROS_AUTOMATIC_DISCOVERY_RANGE=${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
fi
unset fer_root fer_venv fer_ros fer_variable fer_messages fer_python
unset -f fer_without
