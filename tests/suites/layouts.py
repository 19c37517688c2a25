"""Where each official evaluator looks for images, written down by hand from its repository and not from the code here.

For the prompts of official.py and a model that is called `mymodel`.
"""

LAYOUTS: dict[str, list[str]] = {
    # djghosh13/geneval: <IMAGE_FOLDER>/00000/metadata.jsonl, samples/0000.png .. 0003.png
    "geneval": [
        "00000/samples/0000.png", "00000/samples/0001.png", "00000/samples/0002.png", "00000/samples/0003.png",
        "00001/samples/0000.png", "00001/samples/0001.png", "00001/samples/0002.png", "00001/samples/0003.png",
        "00002/samples/0000.png", "00002/samples/0001.png", "00002/samples/0002.png", "00002/samples/0003.png",
    ],
    # PKU-YuanGroup/WISE: 1.png to 1000.png, by prompt_id
    "wise": ["1.png", "2.png", "401.png", "568.png", "701.png", "801.png", "901.png"],
    "wise-verified": ["1.png", "2.png", "401.png", "568.png", "701.png", "801.png", "901.png"],
    # A113N-W3I/TIIF-Bench: output/<dimension>/<model>/short_description/0.png and long_description/0.png
    "tiif": [
        "output/color+2d/mymodel/long_description/0.png", "output/color+2d/mymodel/long_description/1.png",
        "output/color+2d/mymodel/short_description/0.png", "output/color+2d/mymodel/short_description/1.png",
        "output/negation/mymodel/long_description/0.png", "output/negation/mymodel/short_description/0.png",
    ],
    # linzhiqiu/t2v_metrics: <output_dir>/<gen_model>/00000.jpeg
    "genai-bench": ["mymodel/00000.jpeg", "mymodel/00001.jpeg", "mymodel/00002.jpeg"],
    # OneIG-Bench: images/<class>/<model>/000.webp, a 2 x 2 grid of four seeds
    "oneig-en": [
        "images/anime/mymodel/000.webp", "images/human/mymodel/000.webp", "images/object/mymodel/000.webp",
        "images/reasoning/mymodel/000.webp", "images/text/mymodel/000.webp",
    ],
    # facebookresearch/GenEval2: any paths, named by a JSON {prompt: path}
    "geneval2": ["images/00000.png", "images/00001.png"],
    # yejy53/Echo-4o, test_scripts: image/1.jpg to 280.jpg, by line, from 1
    "geneval++": ["image/1.jpg", "image/2.jpg", "image/3.jpg"],
    # Karine-Huang/T2I-CompBench: <out>/samples/PROMPT_000000.png, ten per prompt, numbered through, per category
    "t2i-compbench++": [
        *(f"color/samples/a green bench and a blue bowl_00000{n}.png" for n in range(10)),
        *(f"numeracy/samples/three cups_0000{n}.png" for n in range(10, 20)),
        *(f"numeracy/samples/two cups_00000{n}.png" for n in range(10)),
    ],
    # TencentQQGYLab/ELLA, dpg_bench: the stem of the prompt's file, a 2 x 2 grid
    "dpg": ["42.png", "midjourney0.png"],
    # xiaomoguhz/R3-Bench: <output-dir>/<stem of bad_image>_edited<suffix>
    "r3-bench": ["output/edit/mymodel/c_5_edited.png", "output/edit/mymodel/c_6_edited.png"],
    # PKU-YuanGroup/ImgEdit, Basic: <result_img_folder>/KEY.png
    "imgedit": ["101.png", "102.png"],
}  # fmt: skip

SIDE_FILES: dict[str, list[str]] = {
    "geneval2": ["image_paths.json"],
    "geneval": ["00000/metadata.jsonl", "00001/metadata.jsonl", "00002/metadata.jsonl"],
}
"""What an evaluator wants beside the images."""

GRIDS = {"oneig-en", "dpg"}
LOSSY = {".jpeg", ".jpg"}
