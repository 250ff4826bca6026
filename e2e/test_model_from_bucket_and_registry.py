"""Models from a real S3 server and a real OCI registry, each with credentials from a Secret."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import openai
from e2e.cluster.network import HOST
from e2e.conftest import wait_ready
from e2e.kubectl import Kubectl
from e2e.servers.embedded import embedded_model
from e2e.servers.processes import registry, s3
from e2e.servers.pushing import Pusher, s3_client
from e2e.traffic import ask

KEY, SECRET = "octavo", "correct-horse"
BCRYPT_OF_RIGHT = "$2y$04$abcdefghijklmnopqrstuuFmEfrkTQnczNzw475xE2VhDrK1uwJiC"


def test_each_is_served(
    deploy: Callable[..., str],
    openai_client: openai.OpenAI,
    kubectl: Kubectl,
    namespace: str,
    tmp_path: Path,
) -> None:
    for name in ("s3", "registry"):
        (tmp_path / name).mkdir()
    passwords = tmp_path / "htpasswd"
    passwords.write_text(f"me:{BCRYPT_OF_RIGHT}\n")
    with (
        s3(tmp_path / "s3", KEY, SECRET, host=HOST) as bucket_url,
        registry(tmp_path / "registry", host=HOST, htpasswd=passwords) as registry_url,
    ):
        fill(bucket_url, registry_url)
        create_secrets(kubectl, namespace)
        bucket = {"source": "s3://models/smollm2", "endpoint": bucket_url, "secretName": "bucket"}
        image = {
            "source": "oci://registry.example/smollm2:1",
            "endpoint": registry_url,
            "secretName": "registry",
        }
        names = [
            deploy("bucket", ready=False, model=bucket),
            deploy("registry", ready=False, model=image),
        ]
        for name in ("bucket", "registry"):
            wait_ready(kubectl, name, namespace)
        for name in names:
            assert ask(openai_client, name)


def fill(bucket_url: str, registry_url: str) -> None:
    name, content = embedded_model()
    client = s3_client(bucket_url, KEY, SECRET)
    client.create_bucket(Bucket="models")
    client.put_object(Bucket="models", Key=f"smollm2/{name}", Body=content)
    Pusher(registry_url, ("me", "right")).artifact("smollm2", "1", {name: content})


def create_secrets(kubectl: Kubectl, namespace: str) -> None:
    login = base64.b64encode(b"me:right").decode()
    auth = json.dumps({"auths": {"registry.example": {"auth": login}}})
    create = ("create", "secret", "generic", "-n", namespace)
    kubectl(*create, "registry", f"--from-literal=.dockerconfigjson={auth}")
    keys = (f"--from-literal=AWS_ACCESS_KEY_ID={KEY}", f"--from-literal=AWS_SECRET_ACCESS_KEY={SECRET}")
    kubectl(*create, "bucket", *keys)
