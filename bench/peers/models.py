"""The models of ts/src/bench/models.ts in PyTorch, with the same parameters, and their training steps."""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width, heads, mask=None):
        super().__init__()
        self.heads, self.mask = heads, mask
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        size = width // self.heads
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        if hasattr(F, "scaled_dot_product_attention"):
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.mask is not None)
        else:
            scores = (q * size**-0.5) @ k.transpose(-1, -2)
            mixed = (scores if self.mask is None else scores + self.mask).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        hidden = self.fc1(self.norm2(x))
        return x + self.fc2(F.gelu(hidden) if self.mask is None else hidden * torch.sigmoid(1.702 * hidden))


class Vit(nn.Module):
    def __init__(self, image, patch, width, depth, heads, out):
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.empty(1, 1, width))
        self.position_embedding = nn.Parameter(torch.empty(1, (image // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, out, bias=False)

    def forward(self, pixels):
        x = self.patch(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position_embedding
        for block in self.blocks:
            x = block(x)
        # Of the other tokens nothing is read.
        return self.projection(self.norm(x[:, 0]))


class Text(nn.Module):
    def __init__(self, vocabulary, length, width, depth, heads, out):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Parameter(torch.empty(length, width))
        mask = torch.full((length, length), float("-inf")).triu(1)
        self.blocks = nn.ModuleList(Block(width, heads, mask) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, out, bias=False)

    def forward(self, tokens):
        x = self.token_embedding(tokens) + self.position_embedding
        for block in self.blocks:
            x = block(x)
        return self.projection(self.norm(x[torch.arange(len(x)), tokens.argmax(1)]))


class Clip(nn.Module):
    def __init__(self, image, text):
        super().__init__()
        self.image, self.text = image, text


def torchvision(name, **options):
    import torchvision.models

    return getattr(torchvision.models, name)(**options)


MODELS = {
    "vit-w192": lambda out: Vit(64, 8, 192, 6, 3, out),
    "vit-w512": lambda out: Vit(64, 8, 512, 6, 8, out),
    "clip-w192": lambda out: Clip(Vit(64, 8, 192, 6, 3, out), Text(49_408, 77, 192, 6, 3, out)),
    "clip-b-32": lambda out: Clip(Vit(224, 32, 768, 12, 12, out), Text(49_408, 77, 512, 12, 8, out)),
    "text-w512": lambda out: Text(49_408, 77, 512, 12, 8, out),
    "resnet18": lambda out: torchvision("resnet18", num_classes=out),
    "mobilenetv3-small": lambda out: torchvision("mobilenet_v3_small", num_classes=out, dropout=0),
}


def load(model, names, values):
    """Sets parameters and running statistics from one array that holds them in the order of `names`; linear weights are [in, out] there."""
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    if sorted(names) != sorted(state):
        raise ValueError(f"Expected parameters {sorted(state)} but received {sorted(names)}")
    at = 0
    for name in names:
        value = state[name]
        given = torch.from_numpy(values[at : at + value.numel()])
        value.copy_(given.view(value.shape[::-1]).T if name in linear else given.view(value.shape))
        at += value.numel()


def training(job, data, device="cpu", channels_last=False, bfloat16=False):
    """A step on one batch: forward, CLIP's loss between embeddings and targets, or those of two towers, backward, AdamW. Returns the loss. With
    bfloat16 the model is run under autocast, which rounds what products multiply; parameters stay float32. Where `microBatch` is below the
    batch, embeddings come first, and each part is run again for its gradients."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = MODELS[job["model"]](job["width"])
    load(model, job["names"], data["parameters"])
    model = model.to(device, memory_format=layout)
    inputs = {}
    for name in job["towers"]:
        values = torch.from_numpy(data[name])
        inputs[name] = values.to(device, memory_format=layout if values.dim() == 4 else torch.contiguous_format)
    towers = {name: model if name == "model" else getattr(model, name) for name in inputs}
    target = torch.from_numpy(data["target"]).to(device) if "target" in data else None
    batch = len(next(iter(inputs.values())))
    micro = job.get("microBatch") or batch
    optimiser = torch.optim.AdamW(model.parameters(), job["rate"], weight_decay=job["decay"])
    labels = torch.arange(batch, device=device)
    kind = torch.device(device).type

    def run(name, part):
        with torch.autocast(kind, torch.bfloat16, enabled=bfloat16):
            return towers[name](part).float()

    def loss_of(embeddings):
        first, *second = (F.normalize(rows, dim=1) for rows in embeddings)
        scores = job["scale"] * first @ (second[0] if second else target).T
        return (F.cross_entropy(scores, labels) + F.cross_entropy(scores.T, labels)) / 2

    def step():
        optimiser.zero_grad(set_to_none=True)
        if micro >= batch:
            loss = loss_of([run(name, values) for name, values in inputs.items()])
            loss.backward()
        else:
            with torch.no_grad():
                parts = [torch.cat([run(name, part) for part in values.split(micro)]) for name, values in inputs.items()]
            leaves = [rows.requires_grad_() for rows in parts]
            loss = loss_of(leaves)
            loss.backward()
            for (name, values), leaf in zip(inputs.items(), leaves):
                for part, gradient in zip(values.split(micro), leaf.grad.split(micro)):
                    run(name, part).backward(gradient)
        optimiser.step()
        return loss.item()

    return step
