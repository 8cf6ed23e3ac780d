"""DICOM files that are made here, with a patient in every element that may name one."""

from io import BytesIO
from typing import Any

from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

PATIENT = ("Hartmann^Ludmilla", "PID-77031", "19510419", "1.2.826.0.1.3680043.8.498.4711", "Sankt-Vitus-Klinik")
"""Name, number, date of birth, UID and place."""


def dicom(
    values: NDArray[Any],
    *,
    kind: str | None = None,
    frames: list[bytes] | None = None,
    syntax: str = ExplicitVRLittleEndian,
    preamble: bool = True,
    **elements: Any,
) -> bytes:
    """Return [height, width], [height, width, 3] or, with NumberOfFrames, several of them, as a DICOM.

    `frames` are what stands for the pixels where the transfer syntax compresses.
    """
    name, number, birth, uid, place = PATIENT
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(uid), UID(f"{uid}.1")
    meta.TransferSyntaxUID = UID(syntax)
    file = FileDataset("", Dataset(), file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID, file.StudyInstanceUID = uid, f"{uid}.1", f"{uid}.2"
    file.PatientName, file.PatientID, file.PatientBirthDate, file.InstitutionName = name, number, birth, place
    colour = values.ndim - ("NumberOfFrames" in elements) == 3
    file.SamplesPerPixel = 3 if colour else 1
    file.PhotometricInterpretation = kind or ("RGB" if colour else "MONOCHROME2")
    if colour:
        file.PlanarConfiguration = 0
    shape = values.shape[1:] if "NumberOfFrames" in elements else values.shape
    file.Rows, file.Columns = shape[:2]
    file.BitsAllocated = file.BitsStored = 8 * values.itemsize
    file.PixelRepresentation = int(values.dtype.kind == "i")
    for key, value in elements.items():
        setattr(file, key, value)
    file.HighBit = file.BitsStored - 1
    implicit = syntax == ImplicitVRLittleEndian
    big = syntax == ExplicitVRBigEndian
    if frames is not None:
        file.PixelData = encapsulate(frames)
    elif values.dtype.kind == "f":
        file.FloatPixelData = values.astype("<f4").tobytes()
    else:
        pixels = values.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
        file.PixelData = pixels + bytes(len(pixels) % 2)
        file["PixelData"].VR = "OW" if values.itemsize > 1 else "OB"
    buffer = BytesIO()
    if preamble:
        dcmwrite(buffer, file, implicit_vr=implicit, little_endian=not big, enforce_file_format=True)
    else:
        bare = Dataset(file)
        bare.save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()
