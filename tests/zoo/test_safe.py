import argparse
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from difflab.errors import DifflabError
from difflab.zoo.safe import is_safetensors, read_safetensors, read_torch


class Hostile:
    """Touches a file when it is unpickled by Python."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def legacy(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


def bare(value, path):
    path.write_bytes(pickle.dumps(value, protocol=4))


@pytest.mark.parametrize("write", [torch.save, legacy, bare])
def test_a_hostile_pickle_is_named_and_does_not_run(tmp_path, write):
    proof, path = tmp_path / "proof", tmp_path / "model.pth"
    pickle.loads(pickle.dumps(Hostile(proof)))
    assert proof.exists()  # it would run
    proof.unlink()
    write({"weight": Hostile(proof)}, path)
    with pytest.raises(DifflabError, match=r"type .*(pathlib|getattr).* was not loaded"):
        read_torch(path)
    assert not proof.exists()


def test_a_pickled_module_is_refused_by_its_type(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(DifflabError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_torch(tmp_path / "model.pt")


@pytest.mark.parametrize("write", [torch.save, legacy])
def test_tensors_and_a_namespace_are_read(tmp_path, write):
    write([torch.arange(3.0), argparse.Namespace(lr=0.1)], tmp_path / "a.pth")
    tensor, namespace = read_torch(tmp_path / "a.pth")
    assert tensor.tolist() == [0.0, 1.0, 2.0]
    assert namespace.lr == 0.1


@pytest.mark.parametrize("write", [torch.save, legacy])
@pytest.mark.parametrize("part", [0.03, 0.5, 0.99])
def test_a_truncated_checkpoint_is_called_that(tmp_path, write, part):
    whole, cut = tmp_path / "whole.pth", tmp_path / "cut.pth"
    write({"a": torch.randn(1000)}, whole)
    content = whole.read_bytes()
    cut.write_bytes(content[: int(part * len(content))])
    with pytest.raises(DifflabError, match=r"cut\.pth.*truncated"):
        read_torch(cut)


def test_a_text_file_is_no_checkpoint(tmp_path):
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(DifflabError, match=r"not a PyTorch checkpoint.*<html>"):
        read_torch(tmp_path / "page.pth")


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "a.pth").touch()
    with pytest.raises(DifflabError, match="is empty"):
        read_torch(tmp_path / "a.pth")


def test_a_missing_file_is_called_missing(tmp_path):
    with pytest.raises(DifflabError, match="No such file"):
        read_torch(tmp_path / "a.pth")


def test_another_zip_archive_is_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("folder/picture.png", b"")
    with pytest.raises(DifflabError, match="zip archive"):
        read_torch(tmp_path / "a.zip")


def test_a_plain_pickle_is_no_checkpoint(tmp_path):
    bare({"a": 1}, tmp_path / "a.pkl")
    with pytest.raises(DifflabError, match="cannot be read"):
        read_torch(tmp_path / "a.pkl")


def test_safetensors_are_told_by_content_and_read_with_metadata(tmp_path):
    save_file({"a": torch.arange(3.0)}, tmp_path / "a.bin", {"k": "v"})
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert is_safetensors(tmp_path / "a.bin")
    assert not is_safetensors(tmp_path / "a.safetensors")
    state, metadata = read_safetensors(tmp_path / "a.bin")
    assert state["a"].tolist() == [0.0, 1.0, 2.0]
    assert metadata == {"k": "v"}


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_safetensors_are_called_that(tmp_path, part):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.randn(100)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(DifflabError, match="truncated"):
        read_safetensors(path)
