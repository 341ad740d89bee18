"""Errors made on purpose on label maps, from which an ELN can learn what wrong looks like.

An op takes a label map, uint8 `[height, width]`, and returns a new one as a network might have
predicted it. It knows nothing about the classes. All ops are called alike, with options of their
own, and draw everything random from the generator that they are given:

    op(label, rng, num_classes=21, ignore_label=255, strength=1.0) -> label

Void stays where it was and nowhere else, and other ids stay below `num_classes`; `ignore_label` is
no class. The ops of `borders` move outlines, those of `regions` give whole regions another class;
`simulation` composes them. docs/simulated_errors.md shows each.
"""
