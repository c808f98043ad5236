"""The tiny setting of the main job, shared by the tests of stages."""

TINY = [
    *("--set", "train.epochs=3", "--set", "retrain.epochs=3", "--set", "search.population=6"),
    *("--set", "search.generations=2", "--set", "search.crossover=2", "--set", "search.mutation=2"),
    *("--set", "search.recalibration_images=128"),
    *("--set", "train.checkpoint_steps=7", "--set", "retrain.checkpoint_steps=7"),
]
BUDGET = "2.2M"
