"""The peers' side of gpu/run.mjs: one peer doing one work on a device of torch (side.py has the commands).

The job: peer, op, torch's device, the work's parameters, `vendor`, a folder with packages in plain Python, and `files`, .npy files by name, which
are on the device before anything is timed. To warm up is a small part of the work and the whole of it: kernels are compiled and tuned, libraries
allocate what they keep. A run ends when the device has done it; extra_mb is the peak of what torch has allocated over that before the call less
the result itself (None on the CPU). Before it, the device's second-level cache is filled with something else.

With `probe` in place of a peer: says of each of the peers why it cannot be had, null where it can, and ends.

Rows are unit vectors already and no peer is asked to normalise what it gets as such. Sizes of blocks are those that keep a GPU busy by their
arithmetic; none of them has been tuned on one.
"""

import importlib
import json
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from side import job, serve  # noqa: E402

sys.path.insert(0, job["vendor"])


def import_from(module, *names):
    """What a peer's package has of these names, first found; its name alone says that it is missing."""
    found = importlib.import_module(module)
    for name in names:
        if hasattr(found, name):
            return getattr(found, name)
    raise ImportError(f"{module} has no {' or '.join(names)}")


def compiled():
    import torch

    if not hasattr(torch, "compile"):
        raise ImportError(f"torch {torch.__version__} has no torch.compile")
    return torch.compile


def linear_cross_entropy():
    return import_from("cut_cross_entropy", "linear_cross_entropy")


NEEDS = {
    "torch": lambda: None,
    "torch-tf32": lambda: None,
    "torch-bf16": lambda: None,
    "torch-compile": compiled,
    "flash-kmeans": lambda: import_from("flash_kmeans", "batch_kmeans_Euclid"),
    "flashlib": lambda: import_from("flashlib", "flash_kmeans"),
    "liger": lambda: import_from("liger_kernel.transformers", "LigerFusedLinearCrossEntropyLoss"),
    "cut-cross-entropy": linear_cross_entropy,
    "inf-cl": lambda: import_from("inf_cl", "cal_flash_loss"),
}


def probe():
    reasons = {}
    try:
        import torch
    except ImportError as error:
        return {peer: str(error) for peer in NEEDS}
    gpu = job["device"].startswith("cuda")
    if gpu and not torch.cuda.is_available():
        return {peer: f"torch {torch.__version__} finds no CUDA device" for peer in NEEDS}
    for peer, need in NEEDS.items():
        reasons[peer] = None
        try:
            if peer == "torch-tf32" and not gpu:
                raise ValueError("there is no TF32 without a GPU")
            need()
        except Exception as error:  # A package that is there and does not load is as good as missing, and says why.
            reasons[peer] = f"{type(error).__name__}: {error}".splitlines()[0]
    return reasons


if job["peer"] == "probe":
    print(json.dumps(probe()))
    sys.exit(0)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

device = torch.device(job["device"])
on_gpu = device.type == "cuda"
if on_gpu:
    # float32 is float32 unless the peer's name says otherwise.
    torch.backends.cuda.matmul.allow_tf32 = job["peer"] == "torch-tf32"
# Training has its inputs where it builds the model.
data = {} if job["op"] == "train" else {name: torch.from_numpy(np.load(path)).to(device) for name, path in job["files"].items()}
bfloat16 = job["peer"] == "torch-bf16"


def synchronise():
    if on_gpu:
        torch.cuda.synchronize()


def dedup(dtype=torch.float32, height=8192, width=16384):
    """Upper triangle in blocks: product, the rows that reach the threshold, their pairs."""
    stored, threshold = data["rows"], job["threshold"]

    def run(count=None):
        rows = stored[:count].to(dtype)
        n = len(rows)
        found = [torch.empty(0, 2, dtype=torch.int64, device=device)]
        for i in range(0, n, height):
            queries = rows[i : i + height]
            for j in range(i, n, width):
                block = queries @ rows[j : j + width].T
                hit = (block.amax(1) > threshold).nonzero().flatten()
                if len(hit) == 0:
                    continue
                pairs = (block[hit] > threshold).nonzero()
                pairs = torch.stack((hit[pairs[:, 0]] + i, pairs[:, 1] + j), 1)
                found.append(pairs[pairs[:, 0] < pairs[:, 1]])
        return {"pairs": torch.cat(found)}

    return run, lambda: run(4096)


BLOCK = 1 << 28  # elements of a block of scores


def assign(rows, centres):
    """Labels [B, N] of rows [B, N, D] among centres [B, K, D]."""
    half = centres.square().sum(2)[:, None] / 2
    height = max(1, BLOCK // (centres.shape[0] * centres.shape[1]))
    return torch.cat([(part @ centres.mT - half).argmax(2) for part in rows.split(height, 1)], 1)


def problems(count=None):
    """Rows and first centres by problem; with a count fewer of both."""
    rows, centres = (data[name].reshape(job["batch"], -1, data[name].shape[1]) for name in ("rows", "centres"))
    return (rows, centres) if count is None else (rows[:, :count], centres[:, : max(1, count // 64)])


def kmeans_torch():
    """Lloyd: blocks of products and their best centre, sums by index_add."""

    def run(count=None):
        rows, centres = problems(count)
        batch, clusters, dim = centres.shape
        first = torch.arange(batch, device=device)[:, None] * clusters
        for _ in range(job["iterations"]):
            labels = (assign(rows, centres) + first).flatten()
            sums = torch.zeros(batch * clusters, dim, device=device).index_add_(0, labels, rows.reshape(-1, dim))
            sizes = torch.bincount(labels, minlength=batch * clusters)[:, None]
            means = sums / sizes.clamp(min=1)
            centres = torch.where(sizes > 0, means, centres.reshape(-1, dim)).reshape(batch, clusters, dim)
        # Ours returns the labels of the final centres too.
        return {"labels": assign(rows, centres).flatten().int(), "centres": centres.reshape(-1, dim)}

    return run, lambda: run(4096)


def kmeans_of(function):
    """Packages that take [B, N, D] and begin from given centres. Their labels are those before the last update, and are made anew outside the clock."""

    def run(count=None):
        rows, centres = problems(count)
        out = function(rows, centres.shape[1], max_iters=job["iterations"], tol=0.0, init_centroids=centres)
        return {"centres": out[1].reshape(-1, rows.shape[2])}

    return run, lambda: run(4096)


def nearest_torch(height=2048, width=131072):
    rows, asked, k = data["rows"], data["queries"], job["k"]

    def run(queries=asked):
        best = []
        for part in queries.split(height):
            value, index = [], []
            for j in range(0, len(rows), width):
                block = part @ rows[j : j + width].T
                top = block.topk(min(k, block.shape[1]), dim=1)
                value.append(top.values)
                index.append(top.indices + j)
            value, index = torch.cat(value, 1), torch.cat(index, 1)
            scores, order = value.topk(k, dim=1)
            best.append((scores, index.gather(1, order)))
        return {"scores": torch.cat([s for s, _ in best]), "indices": torch.cat([n for _, n in best])}

    return run, lambda: run(asked[:512])


def nearest_flashlib():
    """By squared distance, which orders unit rows as the cosine does."""
    knn = import_from("flashlib.primitives.knn", "flash_knn")

    def run(queries=data["queries"]):
        distances, indices = knn(queries, data["rows"], job["k"])
        return {"scores": 1 - distances / 2, "indices": indices}

    return run, lambda: run(data["queries"][:512])


def contrast(scores, targets):
    return (F.cross_entropy(scores, targets) + F.cross_entropy(scores.T, targets)) / 2


def cluster_terms(i, teacher_image, centres, labels, rows):
    """Of some rows of a batch of `rows`."""
    tau = job["temperature"]
    log_q = (i @ centres.T / tau).float().log_softmax(1)
    loss = F.nll_loss(log_q, labels, reduction="sum")
    if job["terms"] == "all":
        with torch.no_grad():
            soft = (teacher_image @ centres.T / tau).float().softmax(1)
        loss = loss + F.kl_div(log_q, soft, reduction="sum")
    return loss / rows


def contrast_terms(i, t, teacher_image, teacher_text, targets, clip_scale, instance_scale):
    loss = contrast(clip_scale.exp() * i @ t.T, targets)
    if job["terms"] == "all":
        loss = loss + contrast(instance_scale.exp() * i @ teacher_image.T, targets) / 2
        loss = loss + contrast(instance_scale.exp() * t @ teacher_text.T, targets) / 2
    return loss


def loss_with(work):
    """work(image, text, count, scales) is a loss of raw embeddings that gradients of both are asked of; it may have asked for some of them already."""

    def run(count=None):
        image, text = (data[name][:count].clone().requires_grad_() for name in ("image", "text"))
        scales = [torch.tensor(job["scale"], device=device).log().requires_grad_() for _ in range(2)]
        total = work(image, text, count, scales)
        result = {"total": total.detach().float().reshape(1), "image": image.grad}
        if text.grad is not None:
            result["text"] = text.grad
        return result

    return run, lambda: run(64)


def loss_torch(compile_it=False):
    """As clusterInstanceLoss, with autograd; teacher and centres are unit rows already. `chunk`: the terms over the centres take so many rows at a time,
    forward and backward, so that their logits fit."""
    by_clusters, by_pairs = (compiled()(terms) if compile_it else terms for terms in (cluster_terms, contrast_terms))
    labels = data["labels"].long()
    own = torch.arange(len(labels), device=device)
    terms = job["terms"]

    def work(image, text, count, scales):
        rows = len(image)
        centres, targets = data["centroids"], labels[:count]
        if "sample" in data:
            sample = data["sample"].long()
            centres, targets = centres[sample], torch.searchsorted(sample, targets)
        teacher_image, teacher_text = data["teacherImage"][:count], data["teacherText"][:count]
        i, t = F.normalize(image, dim=1), F.normalize(text, dim=1)
        total, gradient = 0, None
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            if terms != "contrast":
                leaf = i.detach().requires_grad_()
                parts = [part.split(job.get("chunk") or rows) for part in (leaf, teacher_image, targets)]
                for part, teacher, target in zip(*parts):
                    loss = by_clusters(part, teacher, centres, target, rows)
                    loss.backward()
                    total = total + loss.detach()
                gradient = leaf.grad
            if terms != "clusters":
                loss = by_pairs(i, t, teacher_image, teacher_text, own[:count], *scales)
                total = total + loss.detach()
                loss.backward(retain_graph=gradient is not None)
        if gradient is not None:
            i.backward(gradient)
        return total

    return loss_with(work)


def backwards(work):
    """A loss that is asked for all its gradients at once."""

    def both(*args):
        loss = work(*args)
        loss.backward()
        return loss

    return loss_with(both)


def loss_clusters(cross_entropy):
    """Cross-entropy over the centres by a package that multiplies too: cross_entropy(embeddings, centres, labels), in bfloat16 as they are used."""
    labels, centres = data["labels"].long(), data["centroids"].bfloat16()

    def work(image, text, count, scales):
        rows = (F.normalize(image, dim=1) / job["temperature"]).bfloat16()
        return cross_entropy(rows, centres, labels[:count])

    return backwards(work)


def loss_liger():
    fused = import_from("liger_kernel.transformers", "LigerFusedLinearCrossEntropyLoss")()
    return loss_clusters(lambda rows, centres, labels: fused(centres, rows, labels))


def loss_cut():
    return loss_clusters(linear_cross_entropy())


def loss_inf():
    """One direction a call, so two calls; the scale is the package's to apply."""
    flash = import_from("inf_cl", "cal_flash_loss")

    def work(image, text, count, scales):
        i, t = F.normalize(image, dim=1), F.normalize(text, dim=1)
        scale = scales[0].exp()
        return (flash(i, t, scale=scale) + flash(t, i, scale=scale)) / 2

    return backwards(work)


def train_torch():
    from models import training

    step = training(job, {name: np.load(path) for name, path in job["files"].items()}, job["device"], bfloat16=bfloat16)
    losses = []

    def run():
        losses.append(step())
        return {"losses": np.array(losses, np.float32)}

    return run, lambda: [run() for _ in range(job["warm"])]


WORKS = {
    "torch": {"dedup": dedup, "kmeans": kmeans_torch, "nearest": nearest_torch, "loss": loss_torch},
    "torch-tf32": {"dedup": dedup, "kmeans": kmeans_torch, "nearest": nearest_torch, "loss": loss_torch},
    "torch-bf16": {"dedup": lambda: dedup(torch.bfloat16), "loss": loss_torch, "train": train_torch},
    "torch-compile": {"loss": lambda: loss_torch(compile_it=True)},
    "flash-kmeans": {"kmeans": lambda: kmeans_of(NEEDS["flash-kmeans"]())},
    "flashlib": {"kmeans": lambda: kmeans_of(NEEDS["flashlib"]()), "nearest": nearest_flashlib},
    "liger": {"loss": loss_liger},
    "cut-cross-entropy": {"loss": loss_cut},
    "inf-cl": {"loss": loss_inf},
}


run, warm_up = WORKS[job["peer"]][job["op"]]()
# Over the second-level cache of any GPU.
other = torch.empty(1 << 28 if on_gpu else 1, dtype=torch.uint8, device=device)


def done():
    result = run()
    synchronise()
    return result


def warm():
    warm_up()
    if job["op"] != "train":
        done()
    synchronise()


def before():
    other.add_(1)
    synchronise()
    if not on_gpu:
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def after(start, size):
    return max(0, torch.cuda.max_memory_allocated() - start - size) / 1e6 if on_gpu else None


def complete(result):
    if job["op"] == "kmeans" and "labels" not in result:
        centres = result["centres"].to(data["rows"].dtype).reshape(job["batch"], -1, data["rows"].shape[1])
        result["labels"] = assign(problems()[0], centres).flatten().int()


serve(done, warm, before, after, complete)
