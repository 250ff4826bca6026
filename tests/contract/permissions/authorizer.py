"""Who hears what an API server's clients ask for, and what the chart's roles give."""

import http.server
import json
import threading
from typing import Any

NAMESPACE = "octavo-system"
Permission = tuple[str, str, str]
"""Group, resource and verb."""


class Authorizer:
    """Hears every question that the API server has, has no opinion, and so leaves the answer to RBAC."""

    def __init__(self) -> None:
        self.asked: set[tuple[str, Permission]] = set()
        heard = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if what := review["spec"].get("resourceAttributes"):
                    sub = f"/{what['subresource']}" if what.get("subresource") else ""
                    permission = (what.get("group", ""), what["resource"] + sub, what["verb"])
                    heard.add((review["spec"].get("user", ""), permission))
                answer = json.dumps({**review, "status": {"allowed": False}}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, component: str) -> set[Permission]:
        """What that component's account has asked for; a plugin asks for * first."""
        user = f"system:serviceaccount:{NAMESPACE}:octavo-{component}"
        return {permission for name, permission in self.asked if name == user and permission[0] != "*"}


def granted(objects: list[dict[str, Any]], component: str) -> set[Permission]:
    """All that the chart's own roles give to that component's account."""
    bindings = [
        item["roleRef"]["name"]
        for item in objects
        if item["kind"].endswith("Binding")
        and any(subject["name"] == f"octavo-{component}" for subject in item["subjects"])
    ]
    return {
        (group, resource, verb)
        for item in objects
        if item["kind"] in ("Role", "ClusterRole") and item["metadata"]["name"] in bindings
        for rule in item["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
