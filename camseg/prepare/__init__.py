"""Volumes, DICOM files, videos and masked images -> folders of PNG images that camseg trains on and labels."""
