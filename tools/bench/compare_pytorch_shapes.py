"""Shapes of the parameters of networks for CIFAR's 10 classes, in the order of the model."""


def convolution(to, of, size):
    """A convolution without bias, and the batch normalisation behind it."""
    return [(to, of, size, size), (to,), (to,)]


def resnet18():
    shapes, width = convolution(64, 3, 3), 64
    for to in (64, 64, 128, 128, 256, 256, 512, 512):
        shapes += convolution(to, width, 3) + convolution(to, to, 3)
        if to != width:
            shapes += convolution(to, width, 1)
        width = to
    return shapes + [(10, 512), (10,)]


def vgg16():
    shapes, width = [], 3
    for to in (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512):
        shapes += convolution(to, width, 3)
        width = to
    return shapes + [(10, 512), (10,)]


def small():
    """For a test: every case of the larger ones, in little time."""
    return convolution(16, 3, 3) + convolution(32, 16, 3) + convolution(32, 16, 3) + [
        (10, 512), (10,)]


MODELS = {'resnet18': resnet18, 'vgg16': vgg16, 'small': small}
