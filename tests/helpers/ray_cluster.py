"""A Ray cluster of two nodes on this machine, and who works on it."""

import os
from contextlib import contextmanager

import psutil

CALM = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
PATIENCE_S = 300


@contextmanager
def two_nodes():
    """With one processor each; the second may be removed."""
    from ray.cluster_utils import Cluster

    os.environ.update({name: value for name, value in CALM.items() if name not in os.environ})
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def flags(cluster):
    return ["--executor", "ray", "--ray-address", cluster.address]


def workers():
    """Workers of this package that are at work on the nodes, which are children of this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            words = process.cmdline()
            if any("bench.execution.worker" in word for word in words) or _is_forked(
                process, words
            ):
                found.append(process)
        except psutil.Error:
            pass
    return found


def _is_forked(process, words):
    """A fork server's child has its command line."""
    return any("bench.execution.fork_server" in word for word in words) and any(
        "bench.execution.fork_server" in word for word in process.parent().cmdline()
    )


def node_of(cluster, process):
    """The node that a process runs on."""
    above = {p.pid for p in process.parents()}
    for node in cluster.list_all_nodes():
        if any(
            info.process.pid in above for infos in node.all_processes.values() for info in infos
        ):
            return node
    raise AssertionError(f"{process} runs on no node")
