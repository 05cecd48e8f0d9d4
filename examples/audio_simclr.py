"""SimCLR on spoken digits over noise, with learned views of waveforms, of their spectrograms, or of both.

python -m viewaug.examples.audio_simclr [--views both]
"""

import argparse
from collections.abc import Sequence

import timm
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import nn
from torch.utils.data import DataLoader
from viewaug.adapters.torchaudio import LogMel
from viewaug.examples.multitask.mixtures import Mixed
from viewaug.examples.multitask.noises import noises
from viewaug.examples.multitask.speech import speech

from viewaug import AdversarialAugmentation, JointOptimizer, Viewmaker

RATE = 8000


def main(arguments: Sequence[str] | None = None) -> float:
    """Pretrain, and return the loss of the last epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", default="synthetic", help="or a path of FSDD")
    parser.add_argument("--noise", default="synthetic", help="or a path of ESC-10")
    parser.add_argument("--views", choices=("waveform", "spectrogram", "both"), default="spectrogram", help="of what")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    utterances = speech(options.speech, train=True, sample_rate=RATE)
    background = noises(options.noise, train=True, sample_rate=RATE)
    dataset = Mixed(utterances, background, "both", length=5120, train=True)  # (1, 5120) each
    # The data set makes whole batches.
    loader = DataLoader(dataset, options.batch, shuffle=True, drop_last=True, collate_fn=lambda batch: batch)

    log_mel = LogMel(RATE, n_mels=40, n_fft=512, hop_length=160, floor=-20)  # (1, 40, 33) each
    log_mel.fit(batch["views"][0] for batch in loader)

    # The budgets are in units of the waveform, and in standard deviations of the spectrogram.
    of_waveforms = AdversarialAugmentation(Viewmaker(1, dims=1, budget=0.05, value_range=None))
    of_spectrograms = AdversarialAugmentation(Viewmaker(1, dims=2, budget=0.1, value_range=None))
    augmentation = nn.Sequential(
        of_waveforms if options.views != "spectrogram" else nn.Identity(),
        log_mel,
        of_spectrograms if options.views != "waveform" else nn.Identity(),
    ).to(device)
    backbone = timm.create_model("resnet18", in_chans=1, num_classes=0)
    model = nn.Sequential(backbone, SimCLRProjectionHead(512, 512, 128)).to(device)

    criterion = NTXentLoss()
    sgd = torch.optim.SGD(model.parameters(), lr=0.06, momentum=0.9)
    optimizer = JointOptimizer(sgd, augmentation.parameters(), lr=1e-3)

    average = float("nan")
    for epoch in range(options.epochs):
        total = 0.0
        for batch in loader:
            x0, x1 = (view.to(device) for view in batch["views"])
            loss = criterion(model(augmentation(x0)), model(augmentation(x1)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        average = total / len(loader)
        print(f"epoch {epoch}: loss {average:.4f}")
    return average


if __name__ == "__main__":
    main()
