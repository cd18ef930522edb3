"""Teacher, student and critic, the student's losses, and the loop."""
