import numpy as np

from eln_jax.data.doctor.images import digest_of


def test_pictures_of_the_same_bytes_in_other_shapes_are_not_the_same():
    assert digest_of(np.zeros((4, 6, 3), np.uint8)) == digest_of(np.zeros((4, 6, 3), np.uint8))
    assert digest_of(np.zeros((4, 6, 3), np.uint8)) != digest_of(np.zeros((6, 4, 3), np.uint8))
