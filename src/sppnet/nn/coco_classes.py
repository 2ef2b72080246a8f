"""Names of COCO's 80 classes, in the order in which detectors trained on it number them."""

_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop
sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack,
umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball
glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana,
apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""

COCO_CLASSES = tuple(" ".join(name.split()) for name in _NAMES.split(","))

ALIKE = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "plane": "airplane",
    "bike": "bicycle",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "television": "tv",
    "cellphone": "cell phone",
    "people": "person",
    "pedestrian": "person",
}
"""What the same classes are called elsewhere, VOC above all."""


def known_class(name: str, classes: tuple[str, ...]) -> int | None:
    """The index of the class that `name` means among `classes`, or None; case and spacing do not count."""
    plain = {_plain(one): index for index, one in enumerate(classes) if _plain(one)}
    wanted = _plain(name)
    return plain.get(wanted, plain.get(_plain(ALIKE.get(wanted, wanted))))


def _plain(name: str) -> str:
    return "".join(sign for sign in name.casefold() if sign.isalnum())
