"""ESC-10 in terms of AudioSet."""

ESC10 = {
    "dog": ["Bark", "Dog"],
    "rain": ["Rain", "Raindrop", "Rain on surface"],
    "sea_waves": ["Waves, surf", "Ocean"],
    "crying_baby": ["Baby cry, infant cry"],
    "clock_tick": ["Tick-tock", "Tick"],
    "sneezing": ["Sneeze"],
    "helicopter": ["Helicopter"],
    "chainsaw": ["Chainsaw"],
    "rooster": ["Chicken, rooster", "Crowing, cock-a-doodle-doo"],
    "crackling_fire": ["Crackle", "Fire"],
}
"""Labels of AudioSet that stand for a category."""
