"""Models on the Hugging Face Hub: download by reference (hf://OWNER/NAME), and upload."""
