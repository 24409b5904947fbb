"""TAU Urban Acoustic Scenes 2022 Mobile: tables, clips, teachers' logits."""
