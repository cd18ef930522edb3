"""A good input of every verb: the files, made once, and the calls that read them.

A call is the line that a user types. A field that takes a file stands in it as {field=name}, where `name` is below the
folder of good files; `out` is a folder that is new for each call. What is hostile is derived from these files.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np

CALLS = {
    "routing record": "{pool=pool.yaml} {questions=questions.jsonl} -o out/table.jsonl -q",
    "routing train": "--table {table=table.jsonl} --policy knn -o out/router",
    "routing evaluate": "{router=router} --table {table=table.jsonl} -o out/e",
    "routing route": "{router=router} sums? --pool {pool=route-pool.yaml}",
    "routing compare": "{sources=router} --table {table=table.jsonl} --test {test=table.jsonl} --routers "
    "random -o out/c -q",
    "routing train#csv": "--table {table=routerbench.csv} --policy random -o out/router",
    "routing evaluate#run": "{router=routing-run} --table {table=table.jsonl} -o out/e",
    "routing report": "{run=routing-run}",
    "routing serve": "{router=router} --pool {pool=pool.yaml} --token-file {token_file=token.txt} --port 0",
    "mtp sample": "small --prompts {prompts=prompts.jsonl} -o out/s.jsonl --max-new-tokens 2 -q",
    "mtp train": "--model {model=model} --data {data=samples.jsonl} -o out/run steps=1 length=64 "
    "train_gamma=1 batch_size=1 -q",
    "mtp evaluate": "{source=head} --data {data=samples.jsonl} -o out/e --length 64 --gamma 1 -q",
    "mtp advise": "{source=head} --data {data=samples.jsonl} --length 64 --gammas 1 --rounds 2 --context 8 -q",
    "mtp audit": "{source=head} --prompts {prompts=prompts.jsonl} --engine transformers --gamma 1 "
    "--depth 1 --samples 50 -q",
    "mtp train#gguf": "--model {model=tiny.gguf} --data {data=samples.jsonl} -o out/run steps=1 length=64 "
    "batch_size=1 -q",
    "mtp serve": "{source=head} --gamma 1 --token-file {token_file=token.txt} --port 0",
    "mtp rl-report": "{log=rl.jsonl} -o out/rl",
    "mtp rl-report#trainer": "{log=trainer_state.json} -o out/rl",
    "mtp export": "{source=head} -o out/model",
    "mtp report": "{source=head}",
    "grounding validate": "{data=annotations}",
    "grounding build": "{clips=clips.jsonl} --videos {videos=videos} --url URL --model m -o out/b --frames "
    "2 -q",
    "grounding review agreement": "{sheets=sheet.csv} {sheets=sheet.csv}",
    "grounding review apply": "{data=annotations} {sheet=sheet.csv} -o out/r",
    "grounding review export": "{data=annotations} -o out/sheet.csv",
    "grounding run": "--data {data=annotations} --videos {videos=videos} --url URL --model m -o out/run "
    "--frames 2 -q",
    "grounding judge": "{source=grounding-run} --data {data=annotations} --url URL --model m -q",
    "grounding score": "{source=predictions.jsonl} --data {data=annotations} --subset {subset=clean.json} "
    "-o out/s.json",
    "grounding score#run": "{source=grounding-run} --data {data=annotations} -o out/s.json",
    "grounding score#official": "{source=predictions.jsonl} --data {data=annotations} --compat official",
    "grounding audit": "{data=annotations} --no-blind -o out/a -q",
    "grounding compare": "{sources=predictions.jsonl} {sources=predictions.jsonl} --data {data=annotations}",
    "grounding report": "{sources=predictions.jsonl} --data {data=annotations} -o out/page.html",
    "grounding export": "{source=predictions.jsonl} --data {data=annotations} --to official -o "
    "out/official.jsonl",
    "grounding export#tasks": "{source=annotations} --videos {videos=videos} --to lmms-eval -o out/tasks",
    "credit trace": "{model=model} --data {data=chains.jsonl} -o out/t --max-new-tokens 8 -n 1 -q",
    "credit mask-test": "{model=model} --data {data=chains.jsonl} -o out/m --own --names attention -q",
    "credit train": "--model {model=model} --data {data=chains.jsonl} -o out/run prompts=1 group=2 "
    "max_new_tokens=8 steps=1 -q",
    "credit compare": "{runs=credit-run} {runs=credit-run-2} -o out/c",
    "distill train": "--model {model=teacher.safetensors} --prompts {prompts=prompts.txt} -o out/run "
    "--preset cdm-small "
    "iterations=1 batch_size=2 schedule.max_steps=2 -q",
    "distill sample": "{source=distill-run} --prompts {prompts=prompts.txt} -o out/s -q",
    "distill evaluate": "{source=distill-run} --prompts {prompts=prompts.txt} --features {features=vit} --samples 4 "
    "-o out/e -q",
    "distill export": "{source=distill-run} -o out/student",
    "distill serve": "{source=distill-run} --token-file {token_file=token.txt} --port 0",
    "distill serve#small": "{source=teacher.safetensors} --port 0",
    "distill teacher": "--data {data=mnist} -o out/teacher.safetensors steps=2 -q",
    "distill presets": "--config {settings_file=presets.yaml}",
    "distill report": "{source=distill-run}",
    "tryon inspect": "{video=tryon/c0/clip.mp4} --mask {mask=tryon/c0/mask.npz} --hands {hands=tryon/c0/hands.npz} "
    "--pose {pose=tryon/c0/pose.mp4} --actions {actions=tryon/c0/actions.json} --person "
    "{person=tryon/c0/mask.npz} -o out/i",
    "tryon track": "{video=tryon/c0/clip.mp4} -o out/t -q",
    "tryon annotate": "{video=tryon/c0/clip.mp4} --mask {mask=tryon/c0/mask.npz} --hands {hands=tryon/c0/hands.npz} "
    "-o out/a.json -q",
    "tryon generate": "{video=tryon/c0/clip.mp4} --mask {mask=tryon/c0/mask.npz} --hands {hands=tryon/c0/hands.npz} "
    "--pose {pose=tryon/c0/pose.mp4} --actions {actions=tryon/c0/actions.json} --garment "
    "{garment=tryon/c0/garment.png} --lora {lora=tryon/lora.safetensors} -o out/g --steps 1 --guidance 1 -q",
    "tryon generate#two": "{video=tryon/c0/clip.mp4} --mask {mask=tryon/c0/mask.npz} --garment "
    "{garment=tryon/c0/garment.png} --model {model=tryon/two} --lora {lora=tryon/lora.safetensors} --lora-low "
    "{lora_low=tryon/lora.safetensors} -o out/g --steps 1 --guidance 1 -q",
    "tryon generate#screened": "{video=tryon/c0/clip.mp4} --mask {mask=tryon/c0/mask.npz} --garment "
    "{garment=tryon/c0/garment.png} --screen-url URL --screen-model m --screen-questions "
    "{screen_questions=tryon/screen.json} -o out/g --steps 1 --guidance 1 -q",
    "tryon export": "{source=tryon/run} -o out/x",
    "tryon serve#two": "{clips=tryon/clips.jsonl} --model {model=tryon/two} --lora-low "
    "{lora_low=tryon/lora.safetensors} --screen-url URL --screen-model m --screen-questions "
    "{screen_questions=tryon/screen.json} --token-file {token_file=token.txt} -o out/serve --port 0",
    "tryon serve": "{clips=tryon/clips.jsonl} --lora {lora=tryon/lora.safetensors} --token-file "
    "{token_file=token.txt} -o out/serve --port 0",
    "tryon prepare": "{data=tryon/clips.jsonl} --frames 9 --most-pixels 1536 --cache out/cache -q",
    "tryon train": "--data {data=tryon/clips.jsonl} --frames 9 --most-pixels 1536 --cache out/cache -o out/run "
    "--steps 1 -q",
    "tryon evaluate": "{generated=tryon/videos} --reference {reference=tryon/videos} --backbone "
    "{backbone=tryon/alexnet.safetensors} --heads {heads=tryon/heads.safetensors} --features "
    "{features=tryon/features.pt} --features-side 8 --window 4 --masks {masks=tryon/masks} --faces "
    "{faces=tryon/masks} --identity {identity=tryon/faces.pt} --hands {hands=tryon/hands} --garments "
    "{garments=tryon/masks} --actions {actions=tryon/actions} --shown-actions {shown_actions=tryon/actions} "
    "--contacts {contacts=tryon/actions} -o out/e -q",
    "tryon judge": "{generated=tryon/videos} --reference {reference=tryon/videos} --actions "
    "{actions=tryon/actions} --url URL --model m --votes 1 -o out/j -q",
    "blending fit": "--exposures {exposures=logs/exposures} --outcomes {outcomes=logs/outcomes} "
    "--plans {plans=plans.yaml} "
    "--previous {previous=snapshot.json} --state {state=fit} -o out/f -q",
    "blending replay": "{snapshot=snapshot.json} --candidates {candidates=logs/candidates} --against "
    "{against=snapshot.json} "
    "--plans {plans=plans.yaml} -o out/r",
    "blending attribute": "{snapshots=snapshot.json} --candidates {candidates=logs/candidates} --exposures "
    "{exposures=logs/exposures} --outcomes {outcomes=logs/outcomes} --users {users=users.parquet} -o out/a -q",
    "blending solve": "{snapshot=snapshot.json} --candidates {candidates=logs/candidates} --plans "
    "{plans=targets.yaml} -o out/s",
    "blending import-legacy": "{source=legacy.yaml} --candidates {candidates=logs/candidates} "
    "--snapshot {snapshot=snapshot.json} "
    "-o out/i",
    "blending import-legacy#json": "{source=legacy.json} --candidates {candidates=logs/candidates} "
    "--snapshot {snapshot=snapshot.json} -o out/i",
    "blending report": "{folders=fit} -o out/p",
    "blending serve": "{snapshot=snapshot.json} --token-file {token_file=token.txt} --port 0",
    "blending serve#state": "{snapshot=snapshot.json} --state {state=state} --port 0",
    "blending log": "{state=state} -o out/log",
    "reports index": "{corpora=notes} -o out/i",
    "reports search": "{index=notes.index} loire",
    "reports write": "loire --index {index=notes.index} --css {css=house.css} "
    "--borders {borders=borders.json} --fonts {fonts=fonts} --offline -o out/r",
    "reports refresh": "{report=report} --index {index=notes.index} --css {css=house.css} "
    "--borders {borders=borders.json} --fonts {fonts=fonts} --offline -o out/f",
    "reports ask": "{report=report} loire",
    "reports verify": "{report=report}",
    "reports verify#markdown": "{report=report.md}",
    "reports evaluate": "{report=report} --tasks {tasks=tasks.json} --task t1 -o out/s.json",
    "reports bench-tasks": "{tasks=tasks.json} --index {index=notes.index} --css {css=house.css} "
    "--borders {borders=borders.json} --fonts {fonts=fonts} -o out/b -q",
    "reports compare": "{first=report} {second=report}",
    "reports compare#scores": "{first=scores.json} {second=scores.json}",
    "reports serve": "{index=notes.index} --css {css=house.css} --borders {borders=borders.json} "
    "--fonts {fonts=fonts} --token-file {token_file=token.txt} -o out/serve --port 0",
    "reports render": "{report=report} --css {css=house.css} --fonts {fonts=fonts} --to md,bib,csl -o out/x",
    "skills init": "{bank=skills-bank} --dry-run",
    "skills init#source": "out/bank --source {source=skills-bank}",
    "skills import": "{bank=skills-bank} {source=skills-source} --base {base=skills-source} --repair --dry-run",
    "skills create": "{bank=skills-bank} {spec=skills-tasks.yaml} --data {data=skills-traffic.jsonl} "
    "--rubric {rubric=skills-rubric.yaml} --dry-run",
    "skills route": "{bank=skills-bank} --data {data=skills-traffic.jsonl} --dry-run",
    "skills refine": "{bank=skills-bank} --data {data=skills-traffic.jsonl} --rubric {rubric=skills-rubric.yaml} "
    "--canaries {canaries=skills-traffic.jsonl} --dry-run",
    "skills run": "{bank=skills-bank} {spec=skills-tasks.yaml} --data {data=skills-traffic.jsonl} "
    "--rubric {rubric=skills-rubric.yaml} --canaries {canaries=skills-traffic.jsonl} --dry-run",
    "skills evaluate": "{bank=skills-bank} --data {data=skills-traffic.jsonl} --rubric {rubric=skills-rubric.yaml} "
    "--pool all",
    "skills gate": "{parent=skills-scores.jsonl} {candidate=skills-scores.jsonl} --skills {skills=skills-source}",
    "skills diff": "{bank=skills-bank} head",
    "skills rollback": "{bank=skills-bank} head --dry-run",
    "skills drift": "{bank=skills-bank} {before=skills-traffic.jsonl} {after=skills-traffic.jsonl} "
    "--rubric {rubric=skills-rubric.yaml}",
    "skills ab": "{users=skills-users.jsonl}",
    "skills serve-mcp": "{bank=skills-bank}",
    "skills report": "{bank=skills-bank} -o out/p",
    "editing synthesize": "--pictures {pictures=pictures} --url URL --model m --families rise.logical -n 1 -o out/s -q",
    "editing checklist": "{tasks=edits.jsonl} --url URL --model m --judge-url URL --judge-model m -o out/c -q",
    "editing curate": "{tasks=edits.jsonl} --against {against=rise.json} --rollouts 0 -o out/k -q",
    "editing edit": "{source=picture.png} rain --also {also=picture.png} --mask {mask=mask.png} --checklist "
    "{checklist=checklist.json} --direct --editor-url URL --judge-url URL --judge-model m -o out/e",
    "editing edit#tasks": "{source=edits.jsonl} --direct --editor-url URL -o out/e -q",
    "editing curate#pipeline": "{tasks=edits.jsonl} --planner {planner=planner} --max-new-tokens 16 "
    "--pipeline {pipeline=pipeline} --judge-url URL "
    "--judge-model m --rollouts 1 -o out/k -q",
    "editing evaluate#pipeline": "{data=rise.json} --planner {planner=planner} --max-new-tokens 16 "
    "--pipeline {pipeline=pipeline} --judge-url URL "
    "--judge-model m -o out/b -q",
    "editing attribute#pipeline": "{tasks=edits.jsonl} --planner {planner=planner} --max-new-tokens 16 "
    "--pipeline {pipeline=pipeline} --judge-url URL "
    "--judge-model m -o out/a -q",
    "editing serve#pipeline": "--planner {planner=planner} --max-new-tokens 16 "
    "--pipeline {pipeline=pipeline} --port 0",
    "editing edit#pipeline": "{source=picture.png} rain --planner {planner=planner} --max-new-tokens 16 "
    "--pipeline {pipeline=pipeline} -o out/e",
    "editing sft": "--model {model=planner} --data {data=edits.jsonl} -o out/p --steps 1 --batch-size 1 -q",
    "editing train": "--model {model=planner} --data {data=edits.jsonl} --editor-url URL --judge-url URL "
    "--judge-model m -o out/p --steps 1 --prompts 1 --cognitive-group 2 --visual-group 2 --longest 8 -q",
    "editing train#pipeline": "--model {model=planner} --data {data=edits.jsonl} --pipeline {pipeline=pipeline} "
    "--judge-url URL --judge-model m -o out/p --steps 1 --prompts 1 --longest 8 -q",
    "editing evaluate": "{data=rise.json} --recorded {recorded=judged.json} -o out/b",
    "editing evaluate#kris": "{data=kris} --recorded {recorded=judged.jsonl} -o out/b",
    "editing attribute": "{tasks=edits.jsonl} --direct --editor-url URL --judge-url URL --judge-model m -o out/a -q",
    "editing serve": "--direct --editor-url URL --token-file {token_file=token.txt} --port 0",
    "assistant learn": "--config {settings_file=gateway.yaml} --token-file {token_file=token.txt} --folder out/data "
    "learning.gate_judge=m",
    "assistant ablate": "--config {settings_file=gateway.yaml} --token-file {token_file=token.txt} --folder out/data "
    "learning.gate_judge=m",
    "assistant init": "out/noria.yaml --url URL --model m --feed {feed=products.csv} "
    "--skills {skills=skills-bank} --no-ask",
    "assistant products": "{feeds=products.csv} --folder out/data",
    "assistant import": "{logs=spans.jsonl} --folder out/data",
    "assistant export": "sft --folder {folder=gateway} -o out/sft.jsonl",
    "assistant query": "SELECT(count(*))FROM(traces) --folder {folder=gateway}",
    "assistant backup": "out/backup --folder {folder=gateway}",
    "assistant restore": "{backup=backup} --folder out/data",
    "serve": "--config {settings_file=gateway.yaml} --token-file {token_file=token.txt} --folder out/data --port 0",
}
"""The call of each verb that reads a file; what follows # tells several calls of one verb apart."""

READ_NOTHING = {"grounding synth", "blending simulate", "assistant shop"}
"""Verbs that read no file but their settings."""

FILE = re.compile(r"\{(\w+)=([^}]+)\}")


def make_good_files(home: Path, noria: Callable[..., None]) -> None:
    """Make all good files.

    Args:
        home: empty folder.
        noria: runs a command, which must succeed.
    """
    _small_files(home)
    _routing(home, noria)
    _models(home, noria)
    _grounding(home, noria)
    _blending(home, noria)
    _reports(home, noria)
    _assistant(home, noria)
    _skills(home, noria)
    _tryon(home / "tryon", noria)
    _editing(home)


def _assistant(home: Path, noria: Callable[..., None]) -> None:
    span = {
        "name": "chat",
        "context": {"trace_id": f"{31:#034x}", "span_id": f"{47:#018x}"},
        "parent_id": None,
        "start_time": "2026-11-01T10:00:00.000000Z",
        "end_time": "2026-11-01T10:00:02.000000Z",
        "attributes": {"gen_ai.operation.name": "chat", "user.id": "ann"},
    }
    _write_lines(home / "spans.jsonl", [span])
    (home / "products.csv").write_text("id,title,price\n1,Mug,9 EUR\n2,Bowl,12 EUR\n")
    noria("assistant", "import", home / "spans.jsonl", "--folder", home / "gateway")
    noria("assistant", "backup", home / "backup", "--folder", home / "gateway")


def _skills(home: Path, noria: Callable[..., None]) -> None:
    from tests.skills.shop import EXAMPLE, week, write_lines

    for name in ("rubric.yaml", "tasks.yaml"):
        shutil.copy(EXAMPLE / name, home / f"skills-{name}")
    for name in ("skills-bank", "skills-source"):
        shutil.copytree(EXAMPLE / "shop", home / name)
    noria("skills", "init", home / "skills-bank")
    week(home / "skills-traffic.jsonl", 60)
    scores = [
        {"id": f"r{n}", "group": f"g{n}", "slice": "all", "route": 1.0, "score": 0.5 + n % 2 / 4}
        for n in range(40)
    ]
    write_lines(home / "skills-scores.jsonl", scores)
    users = [{"arm": ("control", "treatment")[n % 2], "value": n % 3} for n in range(40)]
    write_lines(home / "skills-users.jsonl", users)


def _tryon(home: Path, noria: Callable[..., None]) -> None:
    import torch
    from safetensors.torch import save_file

    from noria.tryon.pipeline.loading import tiny_pipeline
    from noria.tryon.pipeline.pipeline import ITryOnPipeline
    from tests.tryon.world_files import write_manifest

    write_manifest(home)
    (home / "videos").mkdir()
    for number in range(2):
        shutil.copy(home / f"c{number}" / "clip.mp4", home / "videos" / f"{number}.mp4")
        for folder, name in (("masks", "mask.npz"), ("actions", "actions.json"), ("hands", "hands.npz")):
            (home / folder).mkdir(exist_ok=True)
            shutil.copy(home / f"c{number}" / name, home / folder / f"{number}{Path(name).suffix}")
    one, other = tiny_pipeline(0), tiny_pipeline(1)
    parts = one.components | {"transformer_2": other.transformer}
    ITryOnPipeline(**parts, boundary_ratio=0.875).save_pretrained(home / "two")
    questions = [{"id": "minor", "question": "Is anyone younger than 18?", "good": "no"}]
    (home / "screen.json").write_text(json.dumps(questions))
    form = ("--frames", 9, "--most-pixels", 1536, "--cache", home / "cache", "--steps", 1, "-q")
    noria("tryon", "train", "--data", home / "clips.jsonl", "-o", home / "run", *form)
    rank = {"lora_A": (2, 24), "lora_B": (24, 2)}
    layer = "transformer.blocks.0.attn1.to_q"
    save_file(
        {f"{layer}.{part}.weight": torch.zeros(shape) for part, shape in rank.items()},
        home / "lora.safetensors",
    )
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    backbone, heads = {}, {}
    for number, (place, (out, into, side)) in enumerate(shapes.items()):
        backbone[f"features.{place}.weight"] = torch.zeros(out, into, side, side)
        backbone[f"features.{place}.bias"] = torch.zeros(out)
        heads[f"lin{number}.model.1.weight"] = torch.zeros(1, out, 1, 1)
    save_file(backbone, home / "alexnet.safetensors")
    save_file(heads, home / "heads.safetensors")
    torch.jit.script(torch.nn.AdaptiveAvgPool3d(1)).save(str(home / "features.pt"))
    torch.jit.script(torch.nn.AdaptiveAvgPool2d(4)).save(str(home / "faces.pt"))


def _editing(home: Path) -> None:
    from PIL import Image

    from noria.editing.planner.small import SmallPlannerConfig, new_planner

    new_planner(
        home / "planner",
        ["rain", "green"],
        SmallPlannerConfig(width=32, layers=1, vision_width=32, vision_layers=1),
    )
    picture = Image.new("RGB", (24, 16), (200, 40, 40))
    (home / "pictures").mkdir()
    for path in (home / "picture.png", home / "pictures" / "one.png"):
        picture.save(path)
    Image.new("L", (24, 16), 255).save(home / "mask.png")
    item = {"id": "a", "dim": "intent", "question": "Does the plan say green?"}
    checklist = {"version": 1, "cognitive": [item], "visual": [{"id": "b", "question": "Is it green?"}]}
    (home / "checklist.json").write_text(json.dumps(checklist))
    edits = {
        "id": "t",
        "image": "picture.png",
        "instruction": "after the rain",
        "reference": {"outcome": "green"},
    }
    _write_lines(home / "edits.jsonl", [edits | {"checklist": checklist}])
    rise = {"index": "r1", "category": "causal_reasoning", "instruction": "let go", "image": "picture.png"}
    (home / "rise.json").write_text(json.dumps([rise | {"reference": "it fell"}]))
    (home / "judged.json").write_text(
        json.dumps({"r1": {"judge1": "Final Score: 5", "judge2": "Final Score: 4"}})
    )
    (home / "kris" / "biology").mkdir(parents=True)
    kris = {
        "1": {"ori_img": "1.png", "gt_img": "1.png", "ins_en": "what will it be?", "explain_en": "a frog"}
    }
    (home / "kris" / "biology" / "annotation.json").write_text(json.dumps(kris))
    _write_lines(home / "judged.jsonl", [{"id": "biology/1", "replies": {"quality": "5"}}])
    (home / "pipeline").mkdir()
    (home / "pipeline" / "model_index.json").write_text(json.dumps({"_class_name": "NoSuchPipeline"}))


def _reports(home: Path, noria: Callable[..., None]) -> None:
    notes = home / "notes"
    notes.mkdir()
    (notes / "rivers.md").write_text("# Rivers\n\nThe Loire is 1,006 km long.\n")
    (notes / "rivers.csv").write_text(
        "year,river,length (km)\n2020,Loire,1006\n2021,Loire,1007\n2022,Loire,1008\n"
    )
    (home / "fonts").mkdir()
    (home / "fonts" / "OFL.txt").write_text("no font is in this folder\n")
    (home / "borders.json").write_text('{"type": "Topology", "objects": {"countries": {}}, "arcs": []}')
    (home / "house.css").write_text("body { color: black; }\n")
    task = {"id": "t1", "query": "rivers: line chart of length", "checklist": {"a": ["Is there a chart?"]}}
    (home / "tasks.json").write_text(json.dumps([task]))
    (home / "scores.json").write_text(json.dumps({"tasks": {"t1": {"CS": 0.5}, "t2": {"CS": 1.0}}}))
    noria("reports", "index", str(notes), "-o", str(home / "notes.index"))
    noria("reports", "write", task["query"], "-i", str(home / "notes.index"), "-o", str(home / "report"))
    shutil.copy(home / "report" / "report.md", home / "report.md")


def _small_files(home: Path) -> None:
    (home / "presets.yaml").write_text("show: cdm\n")
    (home / "gateway.yaml").write_text(
        "backends:\n  m: {url: 'http://127.0.0.1:9/v1', model: m}\n"
        "routes:\n  brief: {backend: m, system: Be brief.}\nbegin: brief\n"
    )
    (home / "token.txt").write_text("a-token-of-sixteen-letters\n")
    questions = [{"id": f"q{n}", "query": f"{n} plus 1?", "answers": [str(n + 1)]} for n in range(3)]
    _write_lines(home / "questions.jsonl", questions)
    _write_lines(home / "prompts.jsonl", [{"prompt": f"Q: {n}+5*2\n"} for n in range(2)])
    _write_lines(
        home / "samples.jsonl",
        [{"prompt": f"Q: {n}+5*2\n", "completion": "5*2=10 1+10=11 #### 11"} for n in range(8)],
    )
    log = [{"step": n, "entropy": 0.5 + 0.1 * n, "accept_length": 2 - 0.05 * n} for n in range(12)]
    _write_lines(home / "rl.jsonl", log)
    (home / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    chain = {"prompt": ": x3 y7; A x+4 B y-2; x?\n", "answer": "x7", "response": "A x+4 x3 = x7; #### x7"}
    _write_lines(home / "chains.jsonl", [chain, chain])
    (home / "prompts.txt").write_text("".join(f"{n}\n" for n in range(10)))
    (home / "mnist").mkdir()
    for digit in range(10):
        grey = np.random.default_rng(digit).random(12 * 784).round(2).tolist()
        (home / "mnist" / f"{digit}.json").write_text(json.dumps({"data": grey}))


def _routing(home: Path, noria: Callable[..., None]) -> None:
    from noria.routing.tables.table import write_table
    from tests.routing.tables import small_table

    table = home / "table.jsonl"
    write_table(table, small_table(30))
    noria("routing", "train", "--table", table, "--policy", "knn", "-o", home / "router")
    noria("routing", "train", "--table", table, "--steps", 2, "-o", home / "routing-run", "-q")
    model = {"name": "adder", "server": {"url": "URL", "model": "m", "attempts": 1}}
    (home / "pool.yaml").write_text(json.dumps({"models": [model]}, indent=1))
    names = ("adder", "atlas", "painter", "sage")
    pool = [model | {"name": n, "strategies": ["step_by_step" if n == "sage" else "direct"]} for n in names]
    (home / "route-pool.yaml").write_text(json.dumps({"models": pool}, indent=1))
    (home / "routerbench.csv").write_text(
        "sample_id,prompt,eval_name,a,a|total_cost,b,b|total_cost\n"
        + "".join(f"{n},what is {n},sums,1.0,0.1,0.0,0.2\n" for n in range(12))
    )


def _models(home: Path, noria: Callable[..., None]) -> None:
    from tests.core.gguf_files import write_tiny_llama

    shutil.copytree(Path(str(files("noria.credit"))) / "assets" / "reasoner", home / "model")
    write_tiny_llama(home / "tiny.gguf")
    short = ("length=64", "train_gamma=1", "batch_size=1", "steps=1", "-q")
    noria(
        "mtp",
        "train",
        "--model",
        home / "model",
        "--data",
        home / "samples.jsonl",
        "-o",
        home / "head",
        *short,
    )
    small = ("prompts=1", "group=2", "max_new_tokens=8", "steps=1", "-q")
    for name, credit in (("credit-run", "none"), ("credit-run-2", "uniform")):
        options = ("--credit", credit, "-o", home / name)
        noria("credit", "train", "--model", home / "model", "--data", home / "chains.jsonl", *options, *small)
    shutil.copyfile(
        Path(str(files("noria.distill"))) / "assets" / "digits_teacher.safetensors",
        home / "teacher.safetensors",
    )
    _write_vision_model(home / "vit")
    options = ("--preset", "cdm-small", "iterations=1", "batch_size=2", "schedule.max_steps=2", "-q")
    inputs = ("--model", home / "teacher.safetensors", "--prompts", home / "prompts.txt")
    noria("distill", "train", *inputs, "-o", home / "distill-run", *options)


def _write_vision_model(folder: Path) -> None:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=8,
        patch_size=4,
    )
    transformers.ViTModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )


def _grounding(home: Path, noria: Callable[..., None]) -> None:
    noria(
        "grounding", "synth", "--samples", 2, "--width", 64, "--height", 48, "--fps", 4, "-o", home / "synth"
    )
    for name in ("annotations", "videos"):
        (home / "synth" / name).rename(home / name)
    data, lines, clips = home / "annotations", [], []
    for path in sorted(data.glob("*.json")):
        record = json.loads(path.read_text())
        lines.append(
            {
                "video_id": record["video_id"],
                "task1": {"openness": "High", "neuroticism": "Low"},
                "task2": {"openness": "smiles at 1 s"},
                "task3": [{"q_idx": n + 1, "answer": "C"} for n in range(len(record["mcq_questions"]))],
                "task2_judged": {"openness": {"grounding": 5}},
            }
        )
        kept = ("video_id", "video_path", "transcription", "original_scores")
        clips.append({name: record[name] for name in kept} | {"consent": True})
    _write_lines(home / "predictions.jsonl", lines)
    _write_lines(home / "clips.jsonl", clips)
    (home / "clean.json").write_text(json.dumps({line["video_id"]: [1, 2, 3] for line in lines}))
    noria("grounding", "review", "export", data, "-o", home / "sheet.csv")
    text = (home / "sheet.csv").read_text()
    (home / "sheet.csv").write_text(text.replace(",,\n", ",correct,\n"))
    options = (
        "--data",
        data,
        "--videos",
        home / "videos",
        "--frames",
        2,
        "--url",
        "URL",
        "--model",
        "m",
        "-q",
    )
    noria("grounding", "run", *options, "-o", home / "grounding-run")


def _blending(home: Path, noria: Callable[..., None]) -> None:
    import pyarrow
    from pyarrow import parquet

    from noria.blending.service.journal.journal import Journal

    noria("blending", "simulate", "--requests", 60, "--candidates", 20, "-o", home / "logs")
    shutil.copyfile(home / "logs" / "plans.yaml", home / "plans.yaml")
    shutil.copyfile(next((home / "logs" / "snapshots").glob("*.json")), home / "snapshot.json")
    (home / "targets.yaml").write_text(
        "plans:\n- {id: live, when: 'source == \"live\"', target: {exposure_share: 0.05}}\n"
    )
    logs = ("--exposures", home / "logs" / "exposures", "--outcomes", home / "logs" / "outcomes")
    noria("blending", "fit", *logs, "--plans", home / "plans.yaml", "-o", home / "fit", "-q")
    rng = np.random.default_rng(0)
    users = {
        "user": [f"u{n}" for n in range(40)],
        "variant": ["control", "treatment"] * 20,
        "watch": rng.random(40),
        "watch_before": rng.random(40),
    }
    parquet.write_table(pyarrow.table(users), home / "users.parquet")
    (home / "legacy.yaml").write_text("multipliers:\n- {id: a, when: 'source == \"live\"', boost: 1.2}\n")
    query = {
        "functions": [{"filter": {"term": {"source": "live"}}, "weight": 1.2, "_name": "live"}],
        "max_boost": 3,
    }
    (home / "legacy.json").write_text(
        json.dumps({"query": {"function_score": query | {"score_mode": "multiply"}}})
    )
    with Journal(home / "state" / "log"):
        pass


def _write_lines(path: Path, records: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
