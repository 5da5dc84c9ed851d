"""Storage backends: `open_storage` returns a `LocalStorage` or a `RemoteStorage`, both of which are a `Storage`."""

from otoscope.activations.storage.base import Storage as Storage
from otoscope.activations.storage.base import open_storage as open_storage
from otoscope.activations.storage.local import LocalStorage as LocalStorage
from otoscope.activations.storage.remote import RemoteStorage as RemoteStorage
