"""What a reviewer needs: is this change an improvement, a regression or noise?"""
