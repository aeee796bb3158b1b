// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.ig;

import bd.gov.dghs.fhir.hapi.SettingException;
import java.io.IOException;
import java.io.InputStream;
import java.util.Optional;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.springframework.core.env.Environment;
import org.springframework.core.io.FileSystemResource;
import org.springframework.core.io.Resource;
import org.springframework.core.io.ResourceLoader;

/** The version that the server announces, and the package of the implementation guide, if it has one. */
public record IgSettings(Optional<String> version, Optional<IgPackage> guide) {

    private static final Logger LOG = LoggerFactory.getLogger(IgSettings.class);
    private static final String LOCATION = "HAPI_IG_PACKAGE_CLASSPATH";
    private static final String VERSION = "HAPI_IG_VERSION";

    /** @throws SettingException if a package is named that is missing or cannot be used */
    public static IgSettings of(Environment environment, ResourceLoader resources) {
        Optional<String> version = text(environment, VERSION);
        Optional<IgPackage> guide = text(environment, LOCATION).map(location -> load(location, resources));
        guide.ifPresent(found -> {
            LOG.info("Implementation guide {} from package {}", found.guideCanonical(), found.name());
            // No reason to refuse: the announced version is what clients are promised, and metadata
            // shows both, so that a check from outside can see that they differ.
            if (version.isPresent() && !version.get().equals(found.version())) {
                LOG.warn(
                        "{} is {}, but the package named by {} is version {}",
                        VERSION,
                        version.get(),
                        LOCATION,
                        found.version());
            }
        });
        return new IgSettings(version, guide);
    }

    private static IgPackage load(String location, ResourceLoader resources) {
        String origin = LOCATION + "=" + location;
        Resource resource = location.startsWith("classpath:") || location.startsWith("file:")
                ? resources.getResource(location)
                // Spring would take a bare path for one on the class path.
                : new FileSystemResource(location);
        if (!resource.exists()) {
            throw new SettingException(origin + ": there is no such package in this image."
                    + " The image and this variable have to change together.");
        }
        try (InputStream tgz = resource.getInputStream()) {
            return IgPackage.read(tgz, origin);
        } catch (IOException e) {
            throw new SettingException(origin + " cannot be read: " + e.getMessage(), e);
        }
    }

    private static Optional<String> text(Environment environment, String name) {
        return Optional.ofNullable(environment.getProperty(name)).map(String::strip).filter(value -> !value.isEmpty());
    }
}
