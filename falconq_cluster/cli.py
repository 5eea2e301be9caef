"""The `falconq` command.

What lives here: commands, their flags and their prompts.
Rules: every setting is a flag of `serve`, made from its declaration, so that none is forgotten; a secret is none of
them, since other users of a machine can read its command lines. What changes who the cluster is asks for a typed
confirmation. A refusal is one sentence on stderr and exit code 78.
Must not know: how anything is done.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape

from falconq_cluster import __version__
from falconq_cluster.config import Settings, load_settings
from falconq_cluster.errors import ConfigurationError, CorruptionError

EXIT_CONFIGURATION = 78
SECRETS = frozenset({"cluster_secret"})
NODE_PANEL_END = "log_format"
"""Last of the settings that people set; those after it are limits."""

app = typer.Typer(name="falconq", help="A replicated message broker behind plain HTTP.", no_args_is_help=True)
dev_app = typer.Typer(help="A cluster on this machine, to try and to develop.", no_args_is_help=True)
node_app = typer.Typer(help="Work on the data of a stopped node.", no_args_is_help=True)
backup_app = typer.Typer(help="Look at backups.", no_args_is_help=True)
app.add_typer(dev_app, name="dev")
app.add_typer(backup_app, name="backup")
app.add_typer(node_app, name="node")


def _show_version(is_wanted: bool) -> None:  # noqa: FBT001 (typer's shape)
    if is_wanted:
        typer.echo(f"falconq {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A replicated message broker behind plain HTTP."""


def _refuse(error: Exception) -> typer.Exit:
    """Says why on stderr."""
    Console(stderr=True, soft_wrap=True).print(f"[red]falconq:[/] {escape(str(error))}", highlight=False)
    return typer.Exit(EXIT_CONFIGURATION)


def _flag(name: str, field: FieldInfo, *, panel: str) -> inspect.Parameter:
    """A setting as a parameter of `serve`; values are judged by Settings, so that all sources are judged alike."""
    flag = "--" + name.replace("_", "-")
    default = field.get_default(call_default_factory=True, validated_data={})
    shown = "" if default is None or default == {} else f" (default: {default})"
    text = f"{field.description}{shown}"
    option = typer.Option(help=text, rich_help_panel=panel, show_default=False)
    kind: Any = str | None
    if field.annotation is bool:
        option = typer.Option(f"{flag}/--no-{flag[2:]}", help=text, rich_help_panel=panel, show_default=False)
        kind = bool | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def _with_settings_as_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a flag for each setting."""
    panel, parameters = "Node", []
    for name, field in Settings.model_fields.items():
        if name not in SECRETS:
            parameters.append(_flag(name, field, panel=panel))
        if name == NODE_PANEL_END:
            panel = "Limits and times"
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


@app.command()
@_with_settings_as_flags
def serve(**flags: object) -> None:
    """Run a node. Each flag is also FALCONQ_… in the environment and a key of the --config file."""
    try:
        settings = load_settings(flags)
    except ConfigurationError as error:
        raise _refuse(error) from error
    from falconq_cluster.app import run  # noqa: PLC0415 (the other commands start faster without the whole node)

    raise typer.Exit(run(settings))


@dev_app.command()
def up(
    *,
    nodes: Annotated[int, typer.Option(min=1, max=7, help="How many nodes.")] = 3,
    data_dir: Annotated[Path, typer.Option(help="Where the nodes keep their data.")] = Path("falconq-data/dev"),
    http_port: Annotated[int, typer.Option(min=1024, max=65000, help="HTTP port of the first node.")] = 8081,
    raft_port: Annotated[int, typer.Option(min=1024, max=65000, help="Raft port of the first node.")] = 7001,
    demo: Annotated[bool, typer.Option("--demo", help="Publish and consume a few messages first.")] = False,
) -> None:
    """Run a local cluster in the foreground; Ctrl-C stops it."""
    from falconq_cluster.dev import cluster, up  # noqa: PLC0415 (as above)

    local = cluster.LocalCluster(count=nodes, data_dir=data_dir, http_port=http_port, raft_port=raft_port)
    raise typer.Exit(up.up(local, Console(), demo=demo))


DataDir = Annotated[Path, typer.Option("--data-dir", help="Data directory of the stopped node.")]


@node_app.command()
def reconfigure(
    members: Annotated[str, typer.Option(help="All members from now on: n1,n2,n3,n4,n5 (addresses are ignored).")],
    data_dir: DataDir = Path("falconq-data"),
) -> None:
    """Add members: stop all nodes, run this on each old one, then start all with the new --peers."""
    from falconq_cluster import maintenance  # noqa: PLC0415 (as above)

    names = tuple(part.partition("=")[0].strip() for part in members.split(",") if part.strip())
    try:
        with maintenance.stopped_node(data_dir) as node:
            typer.echo(f"{data_dir} holds node {node.node_id}. Its cluster gets the members {', '.join(names)}.")
            typer.echo("All nodes must be stopped, and this must be done on every node that holds data.")
            _confirm(node.node_id)
            report = node.reconfigure(names)
    except (ConfigurationError, CorruptionError) as error:
        raise _refuse(error) from error
    typer.echo(f"Done: node {report.node_id} of cluster {report.cluster_id} now has {', '.join(report.members)}.")


@node_app.command()
def recover(
    *,
    sole_survivor: Annotated[
        bool, typer.Option("--sole-survivor", help="This node is the only one whose data is left.")
    ] = False,
    data_dir: DataDir = Path("falconq-data"),
) -> None:
    """Make this node's data the start of a new cluster, after a majority has lost its disks."""
    from falconq_cluster import maintenance  # noqa: PLC0415 (as above)

    if not sole_survivor:
        raise _refuse(ConfigurationError("say --sole-survivor when no other node's data is left; else start that node"))
    try:
        with maintenance.stopped_node(data_dir) as node:
            typer.echo(f"{data_dir} holds node {node.node_id}. It becomes the start of a new cluster.")
            typer.echo("Lost is what was acknowledged by the other nodes and had not reached this one.")
            typer.echo("Never start another node of the old cluster with its old data again: wipe it first.")
            _confirm(node.node_id)
            report = node.recover(secrets.token_hex(16))
    except (ConfigurationError, CorruptionError) as error:
        raise _refuse(error) from error
    typer.echo(
        f"Done: kept everything up to index {report.applied_index}, of which {report.replayed_count} entries may not "
        f"have been acknowledged. The new cluster is {report.cluster_id}; start all members, the others empty."
    )


BackupFile = Annotated[
    Path, typer.Argument(help="A file of GET /v1/cluster/backup.", exists=True, dir_okay=False, readable=True)
]


@node_app.command()
def restore(
    file: BackupFile, data_dir: Annotated[Path, typer.Option(help="An empty data directory.")] = Path("falconq-data")
) -> None:
    """Make a backup the data of a node that never ran: the start of a new cluster, or of each of its members."""
    from falconq_cluster import maintenance  # noqa: PLC0415 (as above)

    try:
        checked = maintenance.restore_backup(file, data_dir)
    except (ConfigurationError, CorruptionError) as error:
        raise _refuse(error) from error
    typer.echo(
        f"Done: {data_dir} holds everything up to index {checked.head.index} of cluster {checked.head.cluster_id}. The "
        f"new cluster is {checked.digest.hex()}; start all members, the others empty or restored from the same file."
    )


@backup_app.command()
def check(file: BackupFile) -> None:
    """Read a backup to its end and say what it is of, or where it is damaged."""
    from falconq_cluster import maintenance  # noqa: PLC0415 (as above)

    try:
        checked = maintenance.check_backup(file)
    except CorruptionError as error:
        raise _refuse(error) from error
    head = checked.head
    typer.echo(
        f"{file} is whole: cluster {head.cluster_id} up to index {head.index}, written by {head.node}, "
        f"{checked.pairs_count} keys, digest {checked.digest.hex()}."
    )


def _confirm(node_id: str) -> None:
    """Goes on only when the node's name was typed."""
    if typer.prompt(f"Type {node_id} to go on", default="", show_default=False).strip() != node_id:
        typer.echo("Nothing was changed.")
        raise typer.Exit(1)
