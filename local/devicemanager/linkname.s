// This file is empty: it lets a test declare a function without a body.
