"""The networks: encoders, DeepLabV3+ decoders, the Error Localization Network."""
