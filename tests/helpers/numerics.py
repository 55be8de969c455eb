"""What the tests of numbers share."""


def relative(a, b):
    """||a - b|| / ||b|| in float64, of tensors of one shape."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    assert a.shape == b.shape
    return float((a - b).norm() / b.norm().clamp(min=1e-30))
