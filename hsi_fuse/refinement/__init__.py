"""Networks that mend what misregistration is left: what they see, learn, and have to prove."""
