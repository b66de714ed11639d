"""What a training takes, told before it begins: operations, memory and time, and settings that fit the machine."""
