"""kubectl for scripts under test: what needs a cluster is done to pods of processes.

What lives here: a program that hands its words to the test, and the test's side, which obeys them.
Rules: what kubectl can do without a cluster is done by the real one. A command that is not known fails the script.
Must not know: which script runs.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from aiohttp import web

from tests.deploy.pods import MOUNT, Pods
from tests.deploy.tools import only, render, tool

PROGRAM = """\
#!{python}
import json, os, subprocess, sys, urllib.request
words = sys.argv[1:]
if words[0] == "kustomize":
    os.execv({real!r}, [{real!r}, *words])
stdin = sys.stdin.read() if words[-2:] == ["-f", "-"] else ""
request = urllib.request.Request({url!r}, json.dumps({{"words": words, "stdin": stdin}}).encode())
with urllib.request.urlopen(request) as answer:
    said = json.load(answer)
print(said["text"])
sys.exit(said["code"])
"""
JOB_SECONDS = 60.0


class FakeKubectl:
    """Obeys a script's kubectl over these pods; `words` has what it was told."""

    def __init__(self, pods: Pods, directory: Path) -> None:
        self._pods = pods
        self._directory = directory
        self._runner: web.AppRunner | None = None
        self._deletions: asyncio.Task[list[int]] | None = None
        self._jobs: dict[str, int] = {}
        self.words: list[str] = []

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/", self._answer)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        program = self._directory / "kubectl"
        program.parent.mkdir()
        text = PROGRAM.format(python=sys.executable, real=tool("kubectl"), url=f"http://{host}:{port}/")
        program.write_text(text)
        program.chmod(0o755)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        told = await request.json()
        words = [word for word in told["words"] if not word.startswith("--timeout=")]
        if words[:2] == ["-n", "falconq"]:
            words = words[2:]
        self.words.append(" ".join(words))
        try:
            text, code = await self._obey(words, told["stdin"]), 0
        except (AssertionError, LookupError, TimeoutError) as error:
            text, code = repr(error), 1
        return web.json_response({"text": text, "code": code})

    async def _obey(self, words: list[str], stdin: str) -> str:
        stateful = only(self._pods.resources, "StatefulSet")["spec"]
        match words:
            case ["get", "statefulset/falconq", "-o", path] if "replicas" in path:
                return str(stateful["replicas"])
            case ["get", "statefulset/falconq", "-o", path] if "image" in path:
                return str(stateful["template"]["spec"]["containers"][0]["image"])
            case ["scale", "statefulset/falconq", "--replicas=0"]:
                stateful["replicas"] = 0
                running = [pod.delete() for pod in self._pods.pods.values()]
                self._deletions = asyncio.create_task(_all(running))
            case ["wait", "--for=delete", "pod", *_]:
                assert self._deletions is not None
                return f"exit codes {await self._deletions}"
            case ["delete", "job,networkpolicy", *_]:
                self._jobs.clear()
            case ["apply", "-f", "-"]:
                for job in yaml.safe_load_all(stdin):
                    if job["kind"] != "Job":
                        continue
                    self._jobs[job["metadata"]["name"]] = await asyncio.to_thread(self._run, job)
            case ["wait", "--for=condition=complete", "job", *_]:
                assert self._jobs, "no job"
                assert set(self._jobs.values()) == {0}, self._jobs
            case ["apply", "-k", overlay]:
                self._pods.resources = await asyncio.to_thread(render, overlay)
                self._pods.start()
            case ["rollout", "status", "statefulset/falconq"]:
                await self._pods.wait_ready(list(self._pods.pods.values()))
            case _:
                raise LookupError(f"kubectl {words} is not known here")
        return ""

    def _run(self, job: dict[str, Any]) -> int:
        """The job's container on the claimed volume; its exit code."""
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        (volume,) = pod["volumes"]
        (mount,) = container["volumeMounts"]
        image = only(self._pods.resources, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["image"]
        assert container["image"] == image
        owner = volume["persistentVolumeClaim"]["claimName"].removeprefix("data-")
        path = self._pods.directory / owner
        assert path.is_dir(), f"there is no volume of {owner}"
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        words = [shutil.which("unshare") or "unshare", "--mount", "sh", "-c", MOUNT, str(path), mount["mountPath"]]
        done = subprocess.run(
            [*words, *container["command"], *container["args"]],
            env={**environment, "PATH": f"{self._pods.directory / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=JOB_SECONDS,
            check=False,
        )
        print(f"--- {job['metadata']['name']} exits with {done.returncode}\n{done.stdout}")
        return done.returncode


async def _all(works: list[Any]) -> list[int]:
    return list(await asyncio.gather(*works))
