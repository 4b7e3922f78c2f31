"""Chapter 10: containers against virtual machines, measured."""
