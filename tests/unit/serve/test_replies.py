"""Answers for several images."""

from __future__ import annotations

import io
import json
import zipfile

from segops.serve.errors import RequestError
from segops.serve.replies import JSON, ZIP, Result, several

OLD = {"name": "segops", "version": "1", "digest": "a"}
NEW = {"name": "segops", "version": "2", "digest": "b"}


def test_an_image_names_its_model_where_the_answer_names_another() -> None:
    results = [
        Result("a.png", b'{"name": "a.png", "classes": []}', 0.5, model=OLD),
        Result("b.png", error=RequestError(422, "no"), model=OLD),
        Result("c.png", b'{"name": "c.png"}', 0.5, model=NEW),
        Result("d.png", error=RequestError(504, "late")),
    ]
    answer = several(results, JSON, NEW)
    told = json.loads(bytes(answer.body))
    assert told["model"] == NEW
    assert [one.get("model") for one in told["results"]] == [OLD, OLD, None, None]
    assert told["results"][0] == {"name": "a.png", "classes": [], "model": OLD}
    assert told["results"][2] == {"name": "c.png"}
    assert answer.headers["segops-model"] == "segops/2"
    with zipfile.ZipFile(io.BytesIO(bytes(several(results, ZIP, NEW).body))) as archive:
        listed = json.loads(archive.read("results.json"))
    assert [one.get("model") for one in listed["results"]] == [OLD, OLD, None, None]
