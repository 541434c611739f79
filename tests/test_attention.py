"""What a notebook cannot ask of attention: a graph without breaks (the compiler looks for a module around what it compiles)."""
import torch
from tinyrope.kernels import kernel_shares_heads


@torch.compile(fullgraph=True, backend="eager")
def add_answer(x, masked): return x + kernel_shares_heads(x.device, x.dtype, x.shape[-1], masked)


def test_the_question_about_a_kernel_breaks_no_graph():
    assert not any(add_answer(torch.zeros(2), masked).any() for masked in (True, False))    # no kernel of a GPU takes tensors of the CPU
